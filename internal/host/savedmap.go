package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A node keeps the newest range map that it has seen, so that after a restart its replicas
// elect leaders at once, without waiting for the meta group; and with it who the members were, and where the meta group was, so that
// it finds the cluster again when none is left of those that it began with. It is only a hint: descriptors in
// the replicas and in the meta group are the authority. The map is in one file, and what has changed since in a
// tail beside it, so that a change is written and not the map. Older builds read the first file alone, which is older.
const (
	savedMapFile = "ranges.map"
	mapTailFile  = "ranges.map.tail"

	savedMapMagic = "PTNMAP01"

	mapTailHead = 8       // of a change: length and checksum
	mapTailMin  = 1 << 16 // a tail may have that many bytes, or as many as the map's file; then the map is written anew
)

// savedMap is what is kept in the data directory.
type savedMap struct {
	dir   string
	kept  *shard.Map // what the files say; nil: nothing, or that is not known
	base  int64      // bytes of the map's file
	ahead int64      // bytes of the tail that count
	about about      // what the files say beside the map
}

// about is what goes with a range map: who the members are, and where the meta group is. Files of older builds say nothing of it.
type about struct {
	members []shard.Member
	meta    shard.Descriptor
}

// read takes what an answer, or a file, says.
func (a *about) read(d *pb.DescriptorsResponse) {
	if len(d.Members) > 0 {
		a.members, a.meta = pb.ToMembers(d.Members), pb.ToDescriptor(d.Meta)
	}
}

// write is the reverse.
func (a *about) write(d *pb.DescriptorsResponse) {
	if len(a.members) > 0 {
		d.Members, d.Meta = pb.FromMembers(a.members), pb.FromDescriptor(a.meta)
	}
}

func (a *about) equal(o *about) bool {
	return a.meta.Equal(&o.meta) && slices.EqualFunc(a.members, o.members, func(a, b shard.Member) bool { return a.Equal(&b) })
}

// load reads the files: nil where there are none. A damaged map is an error. Of the tail counts what is whole and
// goes on from the map, as far as it goes: a crash may have left less.
func (s *savedMap) load() (*shard.Map, error) {
	path := filepath.Join(s.dir, savedMapFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, about, err := decodeMap(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, shard.ErrCorrupt, err)
	}
	tail, err := os.ReadFile(filepath.Join(s.dir, mapTailFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.base, s.about = int64(len(b)), about
	s.kept, s.ahead = decodeTail(m, &s.about, tail)
	return s.kept, nil
}

// save keeps a map and what goes with it. After an error the files say what they said, or something older.
func (s *savedMap) save(m *shard.Map, with about) error {
	news := with
	if s.about.equal(&with) {
		news = about{}
	}
	if s.kept != nil && s.kept.Version() == m.Version() && len(news.members) == 0 {
		return nil
	}
	if s.kept != nil && s.kept.Version() < m.Version() {
		change, err := encodeChange(s.kept, m, &news)
		if err != nil {
			return err
		}
		if s.ahead+int64(len(change)) <= max(s.base, mapTailMin) {
			err := s.add(m, change)
			if err == nil {
				s.about = with
			}
			return err
		}
	}
	return s.replace(m, with)
}

// add writes a change behind the others. It is not synced: what a crash takes with it was a hint.
func (s *savedMap) add(m *shard.Map, change []byte) error {
	f, err := os.OpenFile(filepath.Join(s.dir, mapTailFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(s.ahead) // what is behind belongs to no map
	if err == nil {
		_, err = f.WriteAt(change, s.ahead)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.kept = nil // who knows what is there now
		return err
	}
	s.kept, s.ahead = m, s.ahead+int64(len(change))
	return nil
}

// replace writes the whole map. The tail goes first: it must not be taken for one of the new map.
func (s *savedMap) replace(m *shard.Map, with about) error {
	s.kept = nil
	if err := os.Remove(filepath.Join(s.dir, mapTailFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d := &pb.DescriptorsResponse{Version: m.Version(), Ranges: pb.FromMap(m)}
	with.write(d)
	body, err := d.MarshalVT()
	if err != nil {
		return err
	}
	b := sealMap(body)
	if err := durable.WriteFile(filepath.Join(s.dir, savedMapFile), b); err != nil {
		return err
	}
	s.kept, s.base, s.ahead, s.about = m, int64(len(b)), 0, with
	return nil
}

// sealMap puts magic and CRC-32C before a DescriptorsResponse.
func sealMap(body []byte) []byte {
	b := append([]byte(savedMapMagic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[len(savedMapMagic):], durable.CRC32C(0, body))
	return append(b, body...)
}

func decodeMap(b []byte) (m *shard.Map, with about, err error) {
	head := len(savedMapMagic) + 4
	if len(b) < head || string(b[:len(savedMapMagic)]) != savedMapMagic {
		return nil, about{}, errors.New("not a range map")
	}
	if durable.CRC32C(0, b[head:]) != binary.BigEndian.Uint32(b[len(savedMapMagic):]) {
		return nil, about{}, errors.New("checksum mismatch")
	}
	var d pb.DescriptorsResponse
	if err := d.UnmarshalVT(b[head:]); err != nil {
		return nil, about{}, err
	}
	with.read(&d)
	m, err = shard.NewMap(d.Version, pb.ToDescriptors(d.Ranges))
	return m, with, err
}

// encodeChange renders what m has otherwise than old: length of the body, CRC-32C of length and body, the body,
// which is a DescriptorsResponse with the version of old as base. news is what else has changed.
func encodeChange(old, m *shard.Map, news *about) ([]byte, error) {
	changed, removed := m.Changes(old)
	d := &pb.DescriptorsResponse{Version: m.Version(), BaseVersion: old.Version(), Ranges: pb.FromDescriptors(changed)}
	for _, id := range removed {
		d.Removed = append(d.Removed, uint64(id))
	}
	news.write(d)
	body, err := d.MarshalVT()
	if err != nil {
		return nil, err
	}
	return sealChange(body), nil
}

func sealChange(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, durable.CRC32C(durable.CRC32C(0, b), body))
	return append(b, body...)
}

// decodeTail makes the changes of a tail to a map and to what goes with it. It returns the map that they lead to, and how many bytes counted.
func decodeTail(m *shard.Map, with *about, tail []byte) (*shard.Map, int64) {
	at := 0
	for len(tail)-at >= mapTailHead {
		size := binary.BigEndian.Uint32(tail[at:])
		if uint64(size) > uint64(len(tail)-at-mapTailHead) {
			break
		}
		end := at + mapTailHead + int(size)
		body := tail[at+mapTailHead : end]
		if durable.CRC32C(durable.CRC32C(0, tail[at:at+4]), body) != binary.BigEndian.Uint32(tail[at+4:]) {
			break
		}
		var d pb.DescriptorsResponse
		if d.UnmarshalVT(body) != nil || d.Version <= d.BaseVersion || d.BaseVersion != m.Version() {
			break
		}
		next, err := m.Update(d.Version, pb.ToDescriptors(d.Ranges), pb.ToRangeIDs(d.Removed))
		if err != nil {
			break
		}
		with.read(&d)
		m, at = next, end
	}
	return m, int64(at)
}
