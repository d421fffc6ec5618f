package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A node keeps the newest range map that it has seen, so that after a restart its replicas
// elect leaders at once, without waiting for the meta group. It is only a hint: descriptors in
// the replicas and in the meta group are the authority.
const savedMapFile = "ranges.map"

const savedMapMagic = "PTNMAP01"

// saveMap writes the file anew: magic, CRC-32C of the rest, a DescriptorsResponse.
func saveMap(dir string, m *shard.Map) error {
	body, err := (&pb.DescriptorsResponse{Version: m.Version(), Ranges: pb.FromMap(m)}).MarshalVT()
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, savedMapFile), sealMap(body))
}

func sealMap(body []byte) []byte {
	b := append([]byte(savedMapMagic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[len(savedMapMagic):], durable.CRC32C(0, body))
	return append(b, body...)
}

// loadMap returns nil where there is no file. A damaged one is an error.
func loadMap(dir string) (*shard.Map, error) {
	path := filepath.Join(dir, savedMapFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeMap(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, shard.ErrCorrupt, err)
	}
	return m, nil
}

func decodeMap(b []byte) (*shard.Map, error) {
	head := len(savedMapMagic) + 4
	if len(b) < head || string(b[:len(savedMapMagic)]) != savedMapMagic {
		return nil, errors.New("not a range map")
	}
	if durable.CRC32C(0, b[head:]) != binary.BigEndian.Uint32(b[len(savedMapMagic):]) {
		return nil, errors.New("checksum mismatch")
	}
	var d pb.DescriptorsResponse
	if err := d.UnmarshalVT(b[head:]); err != nil {
		return nil, err
	}
	return shard.NewMap(d.Version, pb.ToDescriptors(d.Ranges))
}
