package gateway

import (
	"errors"
	"io"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestObjectsAreBoundedEach: an object that is too large is refused when so much of it was read; a stream may be as long as it likes.
func TestObjectsAreBoundedEach(t *testing.T) {
	const bytesMax = 8192
	object := `{"ID":"7"` + strings.Repeat(" ", 100) + "}\n"
	n := 10 * bytesMax / len(object)
	endless := &counting{Reader: io.MultiReader(strings.NewReader(`{"ID":"`), zeros{})}
	dec := newMarshaler(bytesMax).NewDecoder(io.MultiReader(strings.NewReader(strings.Repeat(object, n)), endless))
	for i := range n {
		var r etcdserverpb.LeaseKeepAliveRequest
		if err := dec.Decode(&r); err != nil || r.ID != 7 {
			t.Fatalf("object %d: %v, %v", i, r.ID, err)
		}
	}
	var r etcdserverpb.LeaseKeepAliveRequest
	if err := dec.Decode(&r); err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "more than 8192 bytes") {
		t.Errorf("an endless object: %v", err)
	}
	if endless.n > 2*bytesMax { // some of it was read with the last of the others
		t.Errorf("%d bytes of it were read", endless.n)
	}
}

// TestWholeObject: as large as allowed is allowed.
func TestWholeObject(t *testing.T) {
	object := `{"key":"aw==","value":"` + strings.Repeat("A", 4096) + `"}`
	for _, tt := range []struct {
		max int
		ok  bool
	}{{len(object), true}, {len(object) - 1, false}} {
		var r etcdserverpb.PutRequest
		err := newMarshaler(tt.max).NewDecoder(strings.NewReader(object)).Decode(&r)
		if (err == nil) != tt.ok || tt.ok && len(r.Value) != 3072 {
			t.Errorf("%d of %d bytes allowed: %v", tt.max, len(object), err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}
