package pb

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzGenerated: generated codecs make of any bytes what package proto makes of them, but that they take text that is
// no UTF-8.
func FuzzGenerated(f *testing.F) {
	var all []generated
	allMessages(f, func(_ string, m generated) { all = append(all, m) })
	for i, m := range all {
		b, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, b)
		f.Add(i, append(b, b...))
		f.Add(i, b[:len(b)/2])
	}
	f.Add(0, []byte("\xf8\xff\xff\xff\x0f\x01\xfb\x01\x08\x01\xfc\x01\x80\x80\x00\x01\xb0\x80\x00\x01")) // a large number of a field, a group, tags that are longer than they need be
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		m := all[int(uint(i)%uint(len(all)))]
		fresh := func() generated { return m.ProtoReflect().New().Interface().(generated) }
		want, got, sharing := fresh(), fresh(), fresh()
		wantErr := proto.Unmarshal(b, want)
		err := got.UnmarshalVT(bytes.Clone(b))
		if errShared := sharing.UnmarshalVTUnsafe(bytes.Clone(b)); (err == nil) != (errShared == nil) || err == nil && !proto.Equal(got, sharing) {
			t.Fatalf("copied %v, %v; shared %v, %v", got, err, sharing, errShared)
		}
		if err != nil {
			if wantErr == nil {
				t.Fatalf("%v, but package proto decodes %v", err, want)
			}
			return
		}
		if wantErr == nil && !proto.Equal(got, want) {
			t.Fatalf("%v, but package proto decodes %v", got, want)
		}
		again, err := got.MarshalVT()
		if err != nil || len(again) != got.SizeVT() {
			t.Fatalf("%d bytes of %d, %v", len(again), got.SizeVT(), err)
		}
		if theirs, err := (proto.MarshalOptions{Deterministic: true}).Marshal(got); err == nil && !bytes.Equal(again, theirs) {
			t.Fatalf("%x, but package proto encodes %x", again, theirs)
		}
	})
}

// TestCodecExtremes: numbers and lengths at the borders of their encodings.
func TestCodecExtremes(t *testing.T) {
	var ints []int64
	for shift := range 64 {
		v := int64(1) << shift
		ints = append(ints, v-1, v, -v)
	}
	for _, v := range append(ints, math.MinInt64) {
		m := &PeerFrame{Requests: []*PeerRequest{{Id: uint64(v), TimeoutMs: v, LeaseKeepAlive: &LeaseKeepAliveRequest{Ids: []int64{v, 0, -v}}}}}
		sameBytes(t, m)
		sameBytes(t, &Compare{Result: int32(v), Target: -int32(v), Number: v})
		sameBytes(t, &Error{Code: uint32(v)})
	}
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 1 << 21} {
		sameBytes(t, &Op{Put: &PutOp{Key: make([]byte, n), Value: make([]byte, n)}})
		sameBytes(t, &LeaseKeysResponse{Keys: [][]byte{make([]byte, n), nil}})
	}
	sameBytes(t, &PeerFrame{Requests: []*PeerRequest{nil, {}}})
	var none *Op
	if b, err := none.MarshalVT(); len(b) != 0 || err != nil || none.SizeVT() != 0 {
		t.Errorf("nothing is encoded as %x, %v", b, err)
	}
}

func sameBytes(t *testing.T, m generated) {
	t.Helper()
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.MarshalVT()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %x, %v, not %x", m, got, err, want)
	}
	room := bytes.Repeat([]byte{0xff}, len(want)+3)
	if n, err := m.MarshalToSizedBufferVT(room); err != nil || n != len(want) || !bytes.Equal(room[3:], want) || room[2] != 0xff {
		t.Errorf("%v is put to the end of a buffer as %x, %d, %v", m, room, n, err)
	}
	back := m.ProtoReflect().New().Interface().(generated)
	if err := back.UnmarshalVT(want); err != nil || len(m.ProtoReflect().GetUnknown()) == 0 && !proto.Equal(back, m) && !bytes.Equal(want, nil) {
		again, _ := back.MarshalVT()
		if err != nil || !bytes.Equal(again, want) {
			t.Errorf("%v comes back as %v, %v", m, back, err)
		}
	}
}
