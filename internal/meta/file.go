package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pontoon/internal/durable"
	"pontoon/internal/meta/state"
	"pontoon/shard"
)

// The snapshot file and the snapshot stream have the same layout, all numbers little-endian:
//
//	0   8 bytes  magic
//	8   uint32   version of the layout
//	12  uint32   CRC-32C of everything from offset 16 on
//	16  uint64   length of the payload
//	24  payload  a pb.MetaState
const (
	snapMagic   = "PNTNMETA"
	snapVersion = 1
	snapHeader  = 24
	// snapMax bounds what is read into memory: millions of leases fit.
	snapMax = 1 << 30

	snapName   = "meta.snap"
	tempPrefix = "meta.tmp-"
)

// encodeSnapshot frames a marshalled state.
func encodeSnapshot(payload []byte) []byte {
	out := make([]byte, snapHeader, snapHeader+len(payload))
	copy(out, snapMagic)
	binary.LittleEndian.PutUint32(out[8:], snapVersion)
	binary.LittleEndian.PutUint64(out[16:], uint64(len(payload)))
	out = append(out, payload...)
	binary.LittleEndian.PutUint32(out[12:], durable.CRC32C(0, out[16:]))
	return out
}

// decodeSnapshot reads a framed state and refuses anything else.
func decodeSnapshot(raw []byte) (*state.State, error) {
	switch {
	case len(raw) < snapHeader || string(raw[:8]) != snapMagic:
		return nil, fmt.Errorf("%w: not a snapshot of the meta group", shard.ErrCorrupt)
	case binary.LittleEndian.Uint32(raw[8:]) != snapVersion:
		return nil, fmt.Errorf("meta snapshot of layout %d: this version reads layout %d only",
			binary.LittleEndian.Uint32(raw[8:]), snapVersion)
	case binary.LittleEndian.Uint64(raw[16:]) != uint64(len(raw)-snapHeader):
		return nil, fmt.Errorf("%w: meta snapshot of %d bytes should have %d",
			shard.ErrCorrupt, len(raw)-snapHeader, binary.LittleEndian.Uint64(raw[16:]))
	case binary.LittleEndian.Uint32(raw[12:]) != durable.CRC32C(0, raw[16:]):
		return nil, fmt.Errorf("%w: meta snapshot: wrong checksum", shard.ErrCorrupt)
	}
	return state.Restore(raw[snapHeader:])
}

// readStream reads a snapshot to the stream's end.
func readStream(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, snapMax+snapHeader+1))
	if err != nil {
		return nil, fmt.Errorf("meta snapshot: %w", err)
	}
	if len(raw) > snapMax+snapHeader {
		return nil, fmt.Errorf("%w: meta snapshot is larger than %d bytes", shard.ErrCorrupt, snapMax)
	}
	return raw, nil
}

// loadSnapshot reads the file of a directory; without one it returns the state of the beginning.
func loadSnapshot(dir string) (*state.State, error) {
	path := filepath.Join(dir, snapName)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return state.New(), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readStream(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, err := decodeSnapshot(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// stageSnapshot writes raw to a new file beside the snapshot file, durably.
func stageSnapshot(dir string, raw []byte) (path string, err error) {
	return durable.Stage(dir, tempPrefix, raw)
}

// publishSnapshot makes a staged file the snapshot file: after a crash it is either there or not.
func publishSnapshot(dir, staged string) error {
	return durable.Rename(staged, filepath.Join(dir, snapName))
}

// removeStaged deletes what a crash left behind.
func removeStaged(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}
