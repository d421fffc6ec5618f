package pb

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"
)

// Operations are decoded by the thousand, on every replica, and each is several small messages within
// one another: an allocation each for generated code. Here they are counted first, and those that live
// together are allocated together. Whatever else is in a message is left to generated code, so the result
// is the same.

const (
	fieldRequests  = 1 // of PeerFrame
	fieldResponses = 2

	fieldWrite  = 10 // of PeerRequest and PeerResponse
	fieldOp     = 3  // of WriteRequest
	fieldResult = 1  // of WriteResponse

	fieldPut = 2 // of Op and Result
	fieldTxn = 4 // of Op

	fieldCompare = 1 // of TxnOp
	fieldSuccess = 2
	fieldFailure = 3

	fieldBatch         = 10 // of Entry
	fieldBatchRequests = 2  // of Batch
)

// UnmarshalShared decodes an entry, which keeps b: its bytes are parts of it.
func (x *Entry) UnmarshalShared(b []byte) error {
	return decodeFields(b, func(f protowire.Number, body, all []byte) error {
		if f != fieldBatch || body == nil || x.Batch != nil {
			return x.UnmarshalVTUnsafe(all)
		}
		x.Batch = &Batch{}
		return x.Batch.decodeShared(body)
	})
}

func (x *Batch) decodeShared(b []byte) error {
	var c opCount
	requests := 0
	bodies(b, func(f protowire.Number, body []byte) {
		if f == fieldBatchRequests {
			requests++
			c.op(body, slabTxnsMax)
		}
	})
	if c.deep {
		return x.UnmarshalVTUnsafe(b)
	}
	x.Requests = make([]*Op, 0, requests)
	s := newOpSlab(c)
	return decodeFields(b, func(f protowire.Number, body, all []byte) error {
		if f != fieldBatchRequests || body == nil {
			return x.UnmarshalVTUnsafe(all)
		}
		op := take(&s.ops)
		x.Requests = append(x.Requests, op)
		return s.decode(op, body)
	})
}

// UnmarshalFrame decodes the calls of a peer. It keeps no reference to b.
func (x *PeerFrame) UnmarshalFrame(b []byte) error {
	return decodeFields(b, func(f protowire.Number, body, all []byte) error {
		switch {
		case f == fieldRequests && body != nil:
			req, err := decodeRequest(body)
			x.Requests = append(x.Requests, req)
			return err
		case f == fieldResponses && body != nil:
			resp, err := decodeResponse(body)
			x.Responses = append(x.Responses, resp)
			return err
		}
		return x.UnmarshalVT(all)
	})
}

// decodeRequest decodes a request, which does not keep b: one that writes has a copy of its own.
func decodeRequest(b []byte) (*PeerRequest, error) {
	op := findField(findField(b, fieldWrite), fieldOp)
	var c opCount
	c.op(op, slabTxnsMax)
	if op == nil || c.deep {
		req := &PeerRequest{}
		return req, req.UnmarshalVT(b)
	}
	w := &struct {
		req   PeerRequest
		write WriteRequest
		ops   [1]Op
		puts  [1]PutOp
	}{}
	s := &opSlab{ops: w.ops[:], puts: w.puts[:]}
	if c.ops > 1 || c.txns > 0 {
		s = newOpSlab(c)
	}
	return &w.req, decodeFields(bytes.Clone(b), func(f protowire.Number, body, all []byte) error {
		if f != fieldWrite || body == nil || w.req.Write != nil {
			return w.req.UnmarshalVTUnsafe(all)
		}
		w.req.Write = &w.write
		return decodeFields(body, func(f protowire.Number, body, all []byte) error {
			if f != fieldOp || body == nil || w.write.Op != nil {
				return w.write.UnmarshalVTUnsafe(all)
			}
			w.write.Op = take(&s.ops)
			return s.decode(w.write.Op, body)
		})
	})
}

// decodeResponse decodes a response, which does not keep b.
func decodeResponse(b []byte) (*PeerResponse, error) {
	put := findField(findField(findField(b, fieldWrite), fieldResult), fieldPut)
	if put == nil {
		resp := &PeerResponse{}
		return resp, resp.UnmarshalVT(b)
	}
	w := &struct {
		resp   PeerResponse
		write  WriteResponse
		result Result
		put    PutResult
	}{}
	w.result.Put = &w.put
	w.write.Result = &w.result
	w.resp.Write = &w.write
	return &w.resp, w.resp.UnmarshalVT(b)
}

// slabTxnsMax is how many transactions within one another are decoded here. Generated code takes deeper ones: it
// knows how deep it may go, and nobody is in a hurry.
const slabTxnsMax = 4

// opCount is how many messages encoded operations hold, as far as they can be read: never fewer than are
// decoded.
type opCount struct {
	ops, puts, txns, compares int
	deep                      bool // transactions lie deeper within one another than slabTxnsMax: nothing else counts
}

// op counts an operation, in which so many transactions may lie within one another.
func (c *opCount) op(b []byte, txnsMax int) {
	c.ops++
	bodies(b, func(f protowire.Number, body []byte) {
		switch f {
		case fieldPut:
			c.puts++
		case fieldTxn:
			c.txns++
			if txnsMax == 0 {
				c.deep = true
				return
			}
			c.txn(body, txnsMax-1)
		}
	})
}

func (c *opCount) txn(b []byte, txnsMax int) {
	bodies(b, func(f protowire.Number, body []byte) {
		switch f {
		case fieldCompare:
			c.compares++
		case fieldSuccess, fieldFailure:
			c.op(body, txnsMax)
		}
	})
}

// opSlab holds the messages of operations that are decoded together.
type opSlab struct {
	ops      []Op
	puts     []PutOp
	txns     []TxnOp
	compares []Compare
	opRefs   []*Op // room for the lists of transactions
	cmpRefs  []*Compare
}

func newOpSlab(c opCount) *opSlab {
	s := &opSlab{
		ops: make([]Op, c.ops), puts: make([]PutOp, c.puts),
		txns: make([]TxnOp, c.txns), compares: make([]Compare, c.compares),
	}
	if c.txns > 0 {
		s.opRefs, s.cmpRefs = make([]*Op, c.ops), make([]*Compare, c.compares)
	}
	return s
}

// take takes the first element of a slab.
func take[T any](s *[]T) *T {
	v := &(*s)[0]
	*s = (*s)[1:]
	return v
}

// list takes an empty list with room for n elements.
func list[T any](s *[]T, n int) []T {
	if n == 0 {
		return nil
	}
	v := (*s)[:0:n]
	*s = (*s)[n:]
	return v
}

// decode decodes an operation, which keeps b.
func (s *opSlab) decode(op *Op, b []byte) error {
	return decodeFields(b, func(f protowire.Number, body, all []byte) error {
		switch {
		case f == fieldPut && body != nil && op.Put == nil:
			op.Put = take(&s.puts)
			return op.Put.UnmarshalVTUnsafe(body)
		case f == fieldTxn && body != nil && op.Txn == nil:
			op.Txn = take(&s.txns)
			return s.decodeTxn(op.Txn, body)
		}
		return op.UnmarshalVTUnsafe(all)
	})
}

func (s *opSlab) decodeTxn(t *TxnOp, b []byte) error {
	s.makeLists(t, b)
	return decodeFields(b, func(f protowire.Number, body, all []byte) error {
		switch {
		case f == fieldCompare && body != nil:
			c := take(&s.compares)
			t.Compare = append(t.Compare, c)
			return c.UnmarshalVTUnsafe(body)
		case f == fieldSuccess && body != nil:
			return s.decodeInto(&t.Success, body)
		case f == fieldFailure && body != nil:
			return s.decodeInto(&t.Failure, body)
		}
		return t.UnmarshalVTUnsafe(all)
	})
}

// decodeInto decodes the next operation of a branch.
func (s *opSlab) decodeInto(branch *[]*Op, b []byte) error {
	op := take(&s.ops)
	*branch = append(*branch, op)
	return s.decode(op, b)
}

// makeLists makes the lists of an empty transaction, empty and as long as they will be.
func (s *opSlab) makeLists(t *TxnOp, b []byte) {
	var compares, success, failure int
	bodies(b, func(f protowire.Number, _ []byte) {
		switch f {
		case fieldCompare:
			compares++
		case fieldSuccess:
			success++
		case fieldFailure:
			failure++
		}
	})
	t.Compare = list(&s.cmpRefs, compares)
	t.Success, t.Failure = list(&s.opRefs, success), list(&s.opRefs, failure)
}

// bodies calls fn for every field of a message that has a body, up to the first malformed one: decoding
// says what is wrong with that.
func bodies(b []byte, fn func(f protowire.Number, body []byte)) {
	for len(b) > 0 {
		f, body, n := nextField(b)
		if n < 0 {
			return
		}
		if body != nil {
			fn(f, body)
		}
		b = b[n:]
	}
}

// decodeFields calls fn for every field of a message until it fails: with its body, nil where that is no
// bytes, and with the field as a whole.
func decodeFields(b []byte, fn func(f protowire.Number, body, all []byte) error) error {
	for len(b) > 0 {
		f, body, n := nextField(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := fn(f, body, b[:n:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// findField is the body of the first such field that has one; nil: there is none.
func findField(b []byte, want protowire.Number) []byte {
	for len(b) > 0 {
		f, body, n := nextField(b)
		if n < 0 {
			return nil
		}
		if f == want && body != nil {
			return body
		}
		b = b[n:]
	}
	return nil
}

// nextField reads one field: its number, its body, nil where that is no bytes, and its length, negative
// where it is malformed.
func nextField(b []byte) (f protowire.Number, body []byte, n int) {
	// Nearly all that have a body have a small number, and a length of one byte or two.
	if len(b) > 2 && b[0]&0x87 == byte(protowire.BytesType) && b[0] > 7 {
		at, size := 2, int(b[1])
		if size >= 0x80 {
			at, size = 3, size&0x7f|int(b[2])<<7
		}
		if (b[1] < 0x80 || b[2] < 0x80) && at+size <= len(b) {
			return protowire.Number(b[0] >> 3), b[at : at+size : at+size], at + size
		}
	}
	return anyField(b)
}

func anyField(b []byte) (f protowire.Number, body []byte, n int) {
	f, t, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, n
	}
	var m int
	if t == protowire.BytesType {
		body, m = protowire.ConsumeBytes(b[n:])
	} else {
		m = protowire.ConsumeFieldValue(f, t, b[n:])
	}
	if m < 0 {
		return 0, nil, m
	}
	return f, body, n + m
}
