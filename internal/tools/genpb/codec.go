package main

import (
	"fmt"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// field is what a field's three lines of code are made of.
type field struct {
	*protogen.Field
	kind fieldKind
	goes string // the Go type of one value
}

// fieldKind is how a field is encoded.
type fieldKind int

const (
	isNumber fieldKind = iota
	isBool
	isBytes
	isString
	isMessage
)

func (f field) number() protowire.Number { return protowire.Number(f.Desc.Number()) }

// tag is what stands before a value of the field.
func (f field) tag() uint64 {
	if f.kind == isNumber && !f.Desc.IsList() || f.kind == isBool {
		return protowire.EncodeTag(f.number(), protowire.VarintType)
	}
	return protowire.EncodeTag(f.number(), protowire.BytesType) // a list of numbers is packed
}

func (f field) tagSize() int { return protowire.SizeTag(f.number()) }

// fieldOf refuses what no helper of internal/pb is for.
func fieldOf(f *protogen.Field) (field, error) {
	if f.Oneof != nil || f.Desc.IsMap() {
		return field{}, fmt.Errorf("%s: neither oneof nor map has a codec", f.Desc.FullName())
	}
	switch f.Desc.Kind() {
	case protoreflect.BoolKind:
		if !f.Desc.IsList() {
			return field{f, isBool, "bool"}, nil
		}
	case protoreflect.Int32Kind:
		return field{f, isNumber, "int32"}, nil
	case protoreflect.Uint32Kind:
		return field{f, isNumber, "uint32"}, nil
	case protoreflect.Int64Kind:
		return field{f, isNumber, "int64"}, nil
	case protoreflect.Uint64Kind:
		return field{f, isNumber, "uint64"}, nil
	case protoreflect.BytesKind:
		return field{f, isBytes, "[]byte"}, nil
	case protoreflect.StringKind:
		return field{f, isString, "string"}, nil
	case protoreflect.MessageKind:
		return field{f, isMessage, f.Message.GoIdent.GoName}, nil
	}
	return field{}, fmt.Errorf("%s: no codec for this kind of field", f.Desc.FullName())
}

// codec writes the methods of a message.
func codec(g *protogen.GeneratedFile, m *protogen.Message) error {
	if len(m.Messages) > 0 {
		return fmt.Errorf("%s: no codec for a message that is declared within one", m.Desc.FullName())
	}
	var fields []field
	for _, f := range m.Fields {
		f, err := fieldOf(f)
		if err != nil {
			return err
		}
		fields = append(fields, f)
	}
	name := m.GoIdent.GoName
	writeSize(g, name, fields)
	writeEncode(g, name, fields)
	writeDecode(g, name, fields)
	return nil
}

func writeSize(g *protogen.GeneratedFile, name string, fields []field) {
	g.P()
	g.P("// SizeVT is how many bytes MarshalVT makes.")
	g.P("func (x *", name, ") SizeVT() int {")
	g.P("if x == nil {")
	g.P("return 0")
	g.P("}")
	g.P("n := len(x.unknownFields)")
	for _, f := range fields {
		v, size := "x."+f.GoName, f.tagSize()
		list := f.Desc.IsList()
		switch {
		case f.kind == isNumber && list:
			g.P("n += sizePacked(", size, ", ", v, ")")
		case f.kind == isNumber:
			g.P("n += sizeNumber(", size, ", uint64(", v, "))")
		case f.kind == isBool:
			g.P("n += sizeBool(", size, ", ", v, ")")
		case f.kind == isMessage && list:
			g.P("for _, v := range ", v, " {")
			g.P("n += sizeBody(", size, ", v.SizeVT())")
			g.P("}")
		case f.kind == isMessage:
			g.P("if ", v, " != nil {")
			g.P("n += sizeBody(", size, ", ", v, ".SizeVT())")
			g.P("}")
		case list:
			g.P("for _, v := range ", v, " {")
			g.P("n += sizeBody(", size, ", len(v))")
			g.P("}")
		default:
			g.P("if len(", v, ") > 0 {")
			g.P("n += sizeBody(", size, ", len(", v, "))")
			g.P("}")
		}
	}
	g.P("return n")
	g.P("}")
}

func writeEncode(g *protogen.GeneratedFile, name string, fields []field) {
	g.P()
	g.P("// MarshalVT encodes the message.")
	g.P("func (x *", name, ") MarshalVT() ([]byte, error) {")
	g.P("if x == nil {")
	g.P("return nil, nil")
	g.P("}")
	g.P("b := make([]byte, x.SizeVT())")
	g.P("return b[x.encode(b):], nil")
	g.P("}")
	g.P()
	g.P("// MarshalToSizedBufferVT encodes the message to the end of b, which has room for it, and returns its size.")
	g.P("func (x *", name, ") MarshalToSizedBufferVT(b []byte) (int, error) { return len(b) - x.encode(b), nil }")
	g.P()
	g.P("func (x *", name, ") encode(b []byte) int {")
	g.P("i := len(b)")
	g.P("if x == nil {")
	g.P("return i")
	g.P("}")
	g.P("if len(x.unknownFields) > 0 {")
	g.P("i -= copy(b[i-len(x.unknownFields):], x.unknownFields)")
	g.P("}")
	for at := len(fields) - 1; at >= 0; at-- {
		f := fields[at]
		v := "x." + f.GoName
		if !f.Desc.IsList() {
			g.P("if ", f.isSet(v), " {")
			f.encodeOne(g, v)
			g.P("}")
			continue
		}
		if f.kind == isNumber { // packed
			g.P("if len(", v, ") > 0 {")
			g.P("end := i")
		}
		g.P("for j := len(", v, ") - 1; j >= 0; j-- {")
		f.encodeOne(g, v+"[j]")
		g.P("}")
		if f.kind == isNumber {
			g.P("i = putVarint(b, i, uint64(end-i))")
			f.encodeTag(g)
			g.P("}")
		}
	}
	g.P("return i")
	g.P("}")
}

// isSet is the condition under which a field's value is encoded.
func (f field) isSet(v string) string {
	switch f.kind {
	case isNumber:
		return v + " != 0"
	case isBool:
		return v
	case isMessage:
		return v + " != nil"
	}
	return "len(" + v + ") > 0"
}

// encodeOne encodes one value, with its tag but where it is packed.
func (f field) encodeOne(g *protogen.GeneratedFile, v string) {
	switch f.kind {
	case isNumber:
		g.P("i = putVarint(b, i, uint64(", v, "))")
		if f.Desc.IsList() {
			return
		}
	case isBool:
		g.P("i--")
		g.P("b[i] = 1")
	case isMessage:
		g.P("start := ", v, ".encode(b[:i])")
		g.P("i = putVarint(b, start, uint64(i-start))")
	default:
		g.P("i -= len(", v, ")")
		g.P("copy(b[i:], ", v, ")")
		g.P("i = putVarint(b, i, uint64(len(", v, ")))")
	}
	f.encodeTag(g)
}

func (f field) encodeTag(g *protogen.GeneratedFile) {
	tag := protowire.AppendVarint(nil, f.tag())
	for i := len(tag) - 1; i >= 0; i-- {
		g.P("i--")
		g.P("b[i] = ", fmt.Sprintf("%#x", tag[i]))
	}
}

func writeDecode(g *protogen.GeneratedFile, name string, fields []field) {
	g.P()
	g.P("// UnmarshalVT decodes b into the message, beside what is in it, and keeps no reference to b.")
	g.P("func (x *", name, ") UnmarshalVT(b []byte) error { return x.decode(b, copied) }")
	g.P()
	g.P("// UnmarshalVTUnsafe is UnmarshalVT, but bytes and strings are parts of b, which must not change any more.")
	g.P("func (x *", name, ") UnmarshalVTUnsafe(b []byte) error { return x.decode(b, shared) }")
	g.P()
	g.P("func (x *", name, ") decode(b []byte, how decoding) error {")
	g.P("if how.depth < 0 {")
	g.P("return errDeep")
	g.P("}")
	g.P("i := 0")
	g.P("for i < len(b) {")
	if len(fields) == 0 { // whatever there is, a later version has put there
		g.P("x.unknownFields, i = appendUnknown(x.unknownFields, b, i)")
		g.P("}")
		g.P("return decoded(b, i)")
		g.P("}")
		return
	}
	g.P("start, tag := i, uint64(b[i])")
	g.P("if i++; tag >= 0x80 {")
	g.P("tag, i = varint(b, start)")
	g.P("}")
	g.P("switch tag {")
	for _, f := range fields {
		f.decodeCases(g)
	}
	g.P("default:")
	g.P("x.unknownFields, i = appendUnknown(x.unknownFields, b, start)")
	g.P("}")
	g.P("}")
	g.P("return decoded(b, i)")
	g.P("}")
}

// decodeCases decodes one value, or a packed list of them.
func (f field) decodeCases(g *protogen.GeneratedFile) {
	v := "x." + f.GoName
	list := f.Desc.IsList()
	if f.kind == isNumber && list { // packed or one by one: both must be understood
		g.P("case ", fmt.Sprintf("%#x", protowire.EncodeTag(f.number(), protowire.VarintType)), ":")
		g.P("var v uint64")
		g.P("v, i = varint(b, i)")
		g.P(v, " = append(", v, ", ", f.goes, "(v))")
		g.P("case ", fmt.Sprintf("%#x", f.tag()), ":")
		g.P(v, ", i = appendPacked(", v, ", b, i)")
		return
	}
	g.P("case ", fmt.Sprintf("%#x", f.tag()), ":")
	if f.kind == isNumber || f.kind == isBool {
		g.P("var v uint64")
		g.P("v, i = varint(b, i)")
		if f.kind == isBool {
			g.P(v, " = v != 0")
		} else {
			g.P(v, " = ", f.goes, "(v)")
		}
		return
	}
	g.P("var body []byte")
	g.P("body, i = bodyAt(b, i)")
	value := "how.bytes(body)"
	switch {
	case f.kind == isMessage && list:
		g.P("v := new(", f.goes, ")")
		g.P(v, " = append(", v, ", v)")
		g.P("if err := v.decode(body, how.deeper()); err != nil {")
		g.P("return err")
		g.P("}")
		return
	case f.kind == isMessage:
		g.P("if ", v, " == nil {")
		g.P(v, " = new(", f.goes, ")")
		g.P("}")
		g.P("if err := ", v, ".decode(body, how.deeper()); err != nil {")
		g.P("return err")
		g.P("}")
		return
	case f.kind == isString:
		value = "how.string(body)"
	}
	if list {
		value = "append(" + v + ", " + value + ")"
	}
	g.P(v, " = ", value)
}
