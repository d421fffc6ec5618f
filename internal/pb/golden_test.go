package pb

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/golden.txt anew: only where a message or a field is new")

const goldenFile = "testdata/golden.txt"

// generated is what the generator gives every message.
type generated interface {
	proto.Message
	SizeVT() int
	MarshalVT() ([]byte, error)
	MarshalToSizedBufferVT(b []byte) (int, error)
	UnmarshalVT(b []byte) error
	UnmarshalVTUnsafe(b []byte) error
}

// allMessages calls fn with a sample of every message of the package in which every field is set, in order of names.
func allMessages(t testing.TB, fn func(name string, m generated)) {
	samples := map[string]generated{}
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if m, ok := mt.New().Interface().(generated); ok && mt.Descriptor().ParentFile().Package() == "pontoon" {
			fill(m.ProtoReflect(), 3)
			samples[string(mt.Descriptor().Name())] = m
		}
		return true
	})
	if len(samples) < 100 {
		t.Fatalf("only %d messages", len(samples))
	}
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		fn(name, samples[name])
	}
}

// fill sets every field to a value that tells of its number; messages are filled so many levels deep.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !f.IsList() {
			if f.Message() != nil {
				fillMessage(m.Mutable(f).Message(), depth)
			} else {
				m.Set(f, scalar(f, 0))
			}
			continue
		}
		list := m.Mutable(f).List()
		for j := range 2 {
			if f.Message() != nil {
				fillMessage(list.AppendMutable().Message(), depth-j)
			} else {
				list.Append(scalar(f, j))
			}
		}
	}
}

func fillMessage(m protoreflect.Message, depth int) {
	if depth > 1 {
		fill(m, depth-1)
	}
}

func scalar(f protoreflect.FieldDescriptor, i int) protoreflect.Value {
	n := int64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n) - 3)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n) << 28)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64((n - 2 + int64(i)) << (3 * n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n) << 59)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprint("text ", n, i))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(n)}, int(n)+i))
	}
	panic("a kind that no message has had yet: " + f.Kind().String())
}

// TestGolden: messages are encoded to the bytes that the first format had, and those are read.
func TestGolden(t *testing.T) {
	if *rewrite {
		writeGolden(t)
	}
	golden := readGolden(t)
	allMessages(t, func(name string, m generated) {
		want, ok := golden[name]
		if !ok {
			t.Errorf("%s has no golden bytes", name)
			return
		}
		delete(golden, name)
		got, err := m.MarshalVT()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is encoded as\n%x, %v, not as\n%x", name, got, err, want)
		}
		if m.SizeVT() != len(want) {
			t.Errorf("%s has a size of %d, not %d", name, m.SizeVT(), len(want))
		}
		for how, decode := range map[string]func(generated, []byte) error{
			"copied":     generated.UnmarshalVT,
			"shared":     generated.UnmarshalVTUnsafe,
			"reflection": func(m generated, b []byte) error { return proto.Unmarshal(b, m) },
		} {
			back := m.ProtoReflect().New().Interface().(generated)
			if err := decode(back, want); err != nil || !proto.Equal(back, m) {
				t.Errorf("%s, %s: %v, %v", name, how, back, err)
			}
		}
	})
	for name := range golden {
		t.Errorf("%s is gone: what is stored can have it still", name)
	}
}

func readGolden(t *testing.T) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string][]byte{}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if golden[name], err = hex.DecodeString(text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return golden
}

func writeGolden(t *testing.T) {
	t.Helper()
	var out strings.Builder
	allMessages(t, func(name string, m generated) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %x\n", name, b)
	})
	if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
