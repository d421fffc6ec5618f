package mvcc

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"pontoon/shard"
)

// FuzzKeyOrder: base keys sort as (key, revision descending) does, and decode to what they were.
func FuzzKeyOrder(f *testing.F) {
	f.Add([]byte("a"), []byte("a\x00"), int64(1), int64(2))
	f.Add([]byte("a\x00\xff"), []byte("a\x00"), int64(7), int64(7))
	f.Add([]byte{}, []byte{0}, int64(math.MaxInt64), int64(1))
	f.Fuzz(func(t *testing.T, a, b []byte, ra, rb int64) {
		ra, rb = max(ra, 1), max(rb, 1)
		ka, kb := appendBaseKey(nil, a, Rev{ra, 0}), appendBaseKey(nil, b, Rev{rb, 0})
		want := bytes.Compare(a, b)
		if want == 0 {
			want = compareRev(Rev{rb, 0}, Rev{ra, 0})
		}
		if got := bytes.Compare(ka, kb); got != want {
			t.Fatalf("%q@%d and %q@%d compare %d, want %d", a, ra, b, rb, got, want)
		}
		key, r, err := decodeBaseKey(ka)
		if err != nil || !bytes.Equal(key, a) || r.Main != ra {
			t.Fatalf("%q@%d decodes to %q@%d, %v", a, ra, key, r.Main, err)
		}
		if escapedEqual(ka[:len(ka)-revLen], b) != bytes.Equal(a, b) {
			t.Fatalf("escapedEqual(%q, %q)", a, b)
		}
		esc := appendEscaped(nil, a)
		after := append(bytes.Clone(esc[:len(esc)-1]), escapeAfterEnd)
		if bytes.Compare(ka, after) >= 0 || bytes.Compare(b, a) > 0 && bytes.Compare(kb, after) <= 0 {
			t.Fatalf("the place after %q is wrong for %q", a, b)
		}
	})
}

// FuzzBaseKey: whatever decodes encodes to the same bytes.
func FuzzBaseKey(f *testing.F) {
	f.Add(appendBaseKey(nil, []byte("k\x00ey"), Rev{5, 1}))
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, r, err := decodeBaseKey(b); err == nil && !bytes.Equal(appendBaseKey(nil, key, r), b) {
			t.Fatalf("%x decodes to %q@%v, which encodes otherwise", b, key, r)
		}
		if r, err := decodeLogKey(b); err == nil && !bytes.Equal(appendLogKey(nil, r), b) {
			t.Fatalf("%x decodes to %v, which encodes otherwise", b, r)
		}
	})
}

func sampleVersion() *version {
	v := &version{sub: 2}
	v.kv = shard.KeyValue{Key: []byte("k"), Value: []byte("value"), CreateRevision: 3, ModRevision: 9, Version: 4, Lease: -7}
	return v
}

// FuzzRecord: decoders of records refuse or give back what encodes to a record that decodes to
// the same; a changed byte is always noticed.
func FuzzRecord(f *testing.F) {
	v := sampleVersion()
	bk := appendBaseKey(nil, v.kv.Key, v.rev())
	lk := appendLogKey(nil, v.rev())
	f.Add(bk, appendBaseRecord(nil, bk, v)[crcLen:], 3)
	f.Add(lk, appendLogRecord(nil, lk, v)[crcLen:], 0)
	f.Fuzz(func(t *testing.T, k, body []byte, flip int) {
		rec := sealed(k, append(make([]byte, crcLen), body...))
		if v, err := decodeLogRecord(k, rec); err == nil {
			again, err := decodeLogRecord(k, appendLogRecord(nil, k, &v))
			if err != nil || !sameKV(&again.kv, &v.kv) || again.del != v.del {
				t.Fatalf("%+v does not survive: %+v, %v", v, again, err)
			}
			if v.kv.CreateRevision <= 0 && !v.del {
				t.Fatalf("create revision %d", v.kv.CreateRevision)
			}
		}
		if esc, r, err := splitBaseKey(k); err == nil {
			if v, err := decodeBaseRecord(k, esc, r, rec); err == nil {
				again, err := decodeBaseRecord(k, esc, r, appendBaseRecord(nil, k, &v))
				if err != nil || !sameKV(&again.kv, &v.kv) || again.del != v.del {
					t.Fatalf("%+v does not survive: %+v, %v", v, again, err)
				}
			}
		}
		rec[uint(flip)%uint(len(rec))] ^= 1 << (uint(flip) % 8)
		if _, err := unseal(k, rec); err == nil {
			t.Fatal("a changed bit was not noticed")
		}
	})
}

// FuzzMeta: format and progress records.
func FuzzMeta(f *testing.F) {
	f.Add(progress{pos: Position{3, 2}, last: 9, keys: 1}.encode())
	f.Add(encodeFormat(7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeProgress(b); err == nil && !bytes.Equal(p.encode(), b) {
			t.Fatalf("%x decodes to %+v", b, p)
		}
		if err := checkFormat(b, 7); err == nil && !bytes.Equal(encodeFormat(7), b) {
			t.Fatalf("%x passes as format", b)
		}
	})
}

// sampleSnapshot is a small snapshot with every kind of frame.
func sampleSnapshot(t testing.TB) []byte {
	var buf bytes.Buffer
	s := &Store{opt: Options{steps: defaultSteps(), RangeID: 7}}
	f := frameWriter{w: &buf, bytesMax: 40}
	buf.WriteString(snapshotMagic + "\x00\x00\x00\x01")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.begin(frameHeader))
	f.buf = append(f.buf, snapshotHeader{s.opt.RangeID, Position{5, 2}, 20, 3, 18}.encode()...)
	must(f.begin(frameState))
	f.bytes([]byte("epoch"))
	f.bytes([]byte{9})
	must(f.begin(frameVersions))
	for rev := int64(9); rev > 3; rev-- {
		f.bytes([]byte("k"))
		f.buf = append(f.buf, byte(rev), 0)
		f.bytes([]byte{0, 0, 1, 0, 'v'})
		must(f.rollover(frameVersions))
	}
	must(f.begin(frameEnd))
	f.buf = append(f.buf, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1)
	must(f.end())
	return buf.Bytes()
}

func nullSink() snapshotSink {
	return snapshotSink{
		header:  func(snapshotHeader) error { return nil },
		state:   func(_, _ []byte) error { return nil },
		version: func(*version) error { return nil },
	}
}

// FuzzSnapshot: the reader refuses or accepts, and never panics or takes much memory. Without
// the right checksums nothing gets through, so they are put in where frames can be told apart.
func FuzzSnapshot(f *testing.F) {
	good := sampleSnapshot(f)
	if err := readSnapshot(bytes.NewReader(good), nullSink()); err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(good[:len(good)-3], false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix {
			b = fixChecksums(b)
		}
		err := readSnapshot(bytes.NewReader(b), nullSink())
		if err != nil && !errors.Is(err, shard.ErrCorrupt) && !errors.Is(err, errOldFormat) {
			t.Fatalf("error of another kind: %v", err)
		}
	})
}

// fixChecksums makes the frames of b pass, as far as their lengths make sense.
func fixChecksums(b []byte) []byte {
	const head = len(snapshotMagic) + 4
	if len(b) < head {
		return b
	}
	var out bytes.Buffer
	out.Write(b[:head])
	w := frameWriter{w: &out}
	for b = b[head:]; len(b) >= frameHeadLen; {
		n := min(int(b[1])<<24|int(b[2])<<16|int(b[3])<<8|int(b[4]), len(b)-frameHeadLen)
		w.buf = append(w.buf, b[:frameHeadLen+n]...)
		if err := w.end(); err != nil {
			panic(err)
		}
		b = b[min(len(b), frameHeadLen+n+crcLen):]
	}
	return out.Bytes()
}

// TestSnapshotDamage flips each byte and cuts at each length: nothing of it is accepted.
func TestSnapshotDamage(t *testing.T) {
	good := sampleSnapshot(t)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if err := readSnapshot(bytes.NewReader(bad), nullSink()); err == nil {
			t.Fatalf("byte %d changed and accepted", i)
		}
		err := readSnapshot(bytes.NewReader(good[:i]), nullSink())
		if !errors.Is(err, shard.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	rest := bytes.NewReader(append(bytes.Clone(good), "next"...))
	if err := readSnapshot(rest, nullSink()); err != nil || rest.Len() != 4 {
		t.Fatalf("%v, %d bytes left of what follows", err, rest.Len())
	}
	broken := io.MultiReader(bytes.NewReader(good[:40]), iotestErr{})
	if err := readSnapshot(broken, nullSink()); !errors.Is(err, errCrash) || errors.Is(err, shard.ErrCorrupt) {
		t.Fatalf("a broken stream is no corruption: %v", err)
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errCrash }
