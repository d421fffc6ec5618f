package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pontoon/internal/meta/state"
	"pontoon/raftgroup"
	"pontoon/shard"
)

func TestRestartFromTheSnapshotFile(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.SnapshotEntries = 5 })
	e.lead(6)
	if e.m.Durable() != 0 {
		t.Error("durable before any snapshot")
	}
	e.must(grantReq(7, 60))
	e.must(attachReq(7, "a", "c"))
	e.m.Tick()
	index, term := e.m.Applied()
	if e.m.Durable() != index || term != 6 {
		t.Errorf("durable %d, applied %d of term %d", e.m.Durable(), index, term)
	}
	e.must(grantReq(8, 60))
	if err := e.m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.dir, tempPrefix+"crash"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.open()
	if i, _ := e.m.Applied(); i != index+1 || e.m.Durable() != i {
		t.Errorf("restarted at %d, durable %d", i, e.m.Durable())
	}
	if left, _ := os.ReadDir(e.dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	e.lead(7)
	if got := e.ids(); len(got) != 2 {
		t.Errorf("leases: %v", got)
	}
}

func TestADamagedFileIsRefusedByName(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 60))
	if err := e.m.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.dir, snapName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := decodeSnapshot(flip(good, i)); err == nil {
			t.Errorf("byte %d flipped was not noticed", i)
		}
		if _, err := decodeSnapshot(good[:i]); err == nil {
			t.Errorf("cut to %d bytes was not noticed", i)
		}
	}
	for name, raw := range map[string][]byte{"empty": {}, "flipped": flip(good, len(good)-1), "longer": append(bytes.Clone(good), 0)} {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Node: 1, Host: e.h, Ranges: e.ranges, Dir: e.dir, Desc: e.m.cfg.Desc, TickInterval: -1})
		if !errors.Is(err, shard.ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := bytes.Clone(good)
	binary.LittleEndian.PutUint32(newer[8:], snapVersion+1)
	if _, err := decodeSnapshot(newer); err == nil || errors.Is(err, shard.ErrCorrupt) || !strings.Contains(err.Error(), "layout 2") {
		t.Errorf("a newer layout: %v", err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	e.open()
}

func flip(raw []byte, i int) []byte {
	out := bytes.Clone(raw)
	out[i] ^= 0x10
	return out
}

func TestSnapshotBetweenReplicas(t *testing.T) {
	a, b := newEnv(t), newEnv(t)
	a.lead(6)
	a.must(grantReq(7, 60))
	a.allocate(10)
	var stream bytes.Buffer
	if err := a.m.SnapshotTo(&stream); err != nil {
		t.Fatal(err)
	}
	index, term := a.m.Applied()
	if _, err := b.m.Receive(bytes.NewReader(stream.Bytes()[:stream.Len()-1])); err == nil {
		t.Error("half a snapshot was accepted")
	}
	s, err := b.m.Receive(bytes.NewReader(stream.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	s.Discard()
	if s, err = b.m.Receive(&stream); err != nil {
		t.Fatal(err)
	}
	if i, tm := s.Position(); i != index || tm != term {
		t.Errorf("position %d of term %d", i, tm)
	}
	if i, _ := b.m.Applied(); i != 0 {
		t.Error("receiving touched the state")
	}
	if err := s.Install(); err != nil {
		t.Fatal(err)
	}
	if i, _ := b.m.Applied(); i != index || b.m.Durable() != index {
		t.Errorf("installed at %d, durable %d", i, b.m.Durable())
	}
	if left, _ := os.ReadDir(b.dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	b.h.index = index
	b.lead(7)
	if got := b.ids(); len(got) != 1 || got[0] != 7 {
		t.Errorf("leases: %v", got)
	}
	if first := b.allocate(1); first <= 11 {
		t.Errorf("revision %d was handed out before", first)
	}
}

func TestAnEntryThatIsNoEntryStopsTheReplica(t *testing.T) {
	e := newEnv(t)
	if err := e.m.Apply([]raftgroup.Entry{{Index: 11, Term: 6, Data: []byte{0xff}}}); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if err := e.m.Apply([]raftgroup.Entry{{Index: 12, Term: 6, Data: []byte{8, 6}}}); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	h, ranges := &fakeHost{}, &fakeRanges{}
	for _, cfg := range []Config{
		{},
		{Host: h, Ranges: ranges, Dir: t.TempDir()},
		{Host: h, Dir: t.TempDir(), Node: 1, Desc: shard.Descriptor{Replicas: []shard.Replica{{ID: 1, Node: 1}}}},
		{Host: h, Ranges: ranges, Dir: t.TempDir(), Node: 4, Desc: shard.Descriptor{Replicas: []shard.Replica{{ID: 1, Node: 1}}}},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("opened with %+v", cfg)
		}
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	payload, err := state.New().Image().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeSnapshot(payload), payload)
	f.Add([]byte(snapMagic), []byte{})
	f.Fuzz(func(t *testing.T, raw, payload []byte) {
		if s, err := decodeSnapshot(raw); (s == nil) == (err == nil) {
			t.Fatalf("state %v, error %v", s, err)
		}
		if s, err := decodeSnapshot(encodeSnapshot(payload)); (s == nil) == (err == nil) {
			t.Fatalf("state %v, error %v", s, err)
		}
	})
}
