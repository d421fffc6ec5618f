package peer

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
)

func packet(n int) *pb.GossipPacket {
	return &pb.GossipPacket{Data: bytes.Repeat([]byte("0123456789abcdef"), n/16)}
}

// pieces cuts an encoded message into parts, as the network hands it over.
func pieces(t *testing.T, data mem.BufferSlice, size int) (parts mem.BufferSlice, raw []byte) {
	t.Helper()
	raw = data.Materialize()
	for rest := raw; len(rest) > 0; {
		n := min(size, len(rest))
		parts, rest = append(parts, mem.SliceBuffer(rest[:n])), rest[n:]
	}
	return parts, raw
}

func TestCodec(t *testing.T) {
	c := codec{}
	for _, size := range []int{0, 16, 1 << 10, 1 << 20} { // below and above what is pooled
		want := packet(size)
		data, err := c.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := proto.Marshal(want); err != nil || !bytes.Equal(plain, data.Materialize()) {
			t.Errorf("%d bytes are encoded as nobody else encodes them (%v)", size, err)
		}
		for _, cut := range []int{1 << 30, 4 << 10} {
			parts, raw := pieces(t, data, cut)
			got := new(pb.GossipPacket)
			if err := c.Unmarshal(parts, got); err != nil {
				t.Fatal(err)
			}
			clear(raw) // the buffers are gRPC's, which uses them again
			if !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%d bytes in parts of %d came back different", size, cut)
			}
		}
		data.Free()
	}
}

func TestCodecSendsRawAsItIs(t *testing.T) {
	raw := Raw("encoded before")
	data, err := codec{}.Marshal(&raw)
	if err != nil || len(data) != 1 || &data[0].ReadOnlyData()[0] != &raw[0] {
		t.Errorf("%v, %v: want the same bytes in the same place", data, err)
	}
	if !bytes.Equal(raw.Encoded(), raw) {
		t.Errorf("Encoded: %q", raw.Encoded())
	}
}

func TestCodecRefusesWhatIsNoMessage(t *testing.T) {
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("a string was encoded")
	}
	one := mem.BufferSlice{mem.SliceBuffer("x")}
	if err := (codec{}).Unmarshal(one, new(Raw)); err == nil {
		t.Error("Raw was decoded")
	}
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer{0x0a, 0xff}}, new(pb.GossipPacket)); err == nil {
		t.Error("a message that is cut off was decoded")
	}
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer{0x0a}, mem.SliceBuffer{0xff}}, new(pb.GossipPacket)); err == nil {
		t.Error("a message that is cut off was decoded from parts")
	}
}
