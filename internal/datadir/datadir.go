package datadir

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"pontoon/internal/durable"
	"pontoon/shard"
)

// Format is the version of the directory's layout and of all files in it that carry none of
// their own.
const Format = 2

// Fixtures is the directory of certificates that the node makes itself, as in etcd.
const Fixtures = "fixtures"

// What a directory may hold that nobody has started on yet: Member is etcd's own, as `etcdutl snapshot restore` makes it, Restore what
// `client snapshot restore` leaves. Ranges is where the files of ranges are, also those that a restore makes before there is an identity.
const (
	Member  = "member"
	Restore = "restore"
	Ranges  = "ranges"
)

const (
	lockName     = "LOCK"
	identityName = "identity.json"
)

// ErrLocked is returned when another process uses the directory.
var ErrLocked = errors.New("in use by another process")

// Identity says whose data a directory holds.
type Identity struct {
	Format  int            `json:"format"`
	Cluster uint64         `json:"cluster,string"`
	Node    shard.NodeID   `json:"node,string"`
	Members []shard.Member `json:"members"` // those of the bootstrap, or those that were there when the node joined
	// Joined: the cluster was there before the node, which takes no part in laying it out.
	Joined bool `json:"joined,omitempty"`
	// Restored: the cluster began with a snapshot, of which this is the digest. Cluster is then made of what the members say, and of it.
	Restored string `json:"restored,omitempty"`
	// Checksum is of everything else in the file: CRC-32C of the JSON without it, in hexadecimal.
	Checksum string `json:"checksum,omitempty"`
}

// Dir is an open data directory.
type Dir struct {
	path string
	lock *os.File
}

// Open creates the directory if needed (mode 0700), locks it and compares its identity with the
// wanted one. A new directory gets the wanted identity. A directory that has one keeps it, and it
// is returned: what the operator says about the first members counts once. Only when pinned, which
// says that the operator named the first members explicitly, is a different cluster refused.
func Open(path string, want Identity, pinned bool) (*Dir, Identity, error) {
	return OpenFirst(path, want, pinned, func() (Identity, error) { return want, nil })
}

// OpenFirst is Open, where the identity of a new directory is to be found out: first is called for it, with the directory locked, and its error
// leaves the directory as it is.
func OpenFirst(path string, want Identity, pinned bool, first func() (Identity, error)) (*Dir, Identity, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, Identity{}, fmt.Errorf("data directory: %w", err)
	}
	d := &Dir{path: path}
	if err := d.acquire(); err != nil {
		return nil, Identity{}, fmt.Errorf("data directory %s: %w", path, err)
	}
	got, err := d.identify(want, pinned, first)
	if err != nil {
		return nil, Identity{}, errors.Join(fmt.Errorf("data directory %s: %w", path, err), d.Close())
	}
	return d, got, nil
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

func (d *Dir) acquire() error {
	f, err := os.OpenFile(filepath.Join(d.path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return errors.Join(err, f.Close())
	}
	d.lock = f
	return nil
}

func (d *Dir) identify(want Identity, pinned bool, first func() (Identity, error)) (Identity, error) {
	name := filepath.Join(d.path, identityName)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		if err := d.mustBeEmpty(); err != nil {
			return Identity{}, err
		}
		id, err := first()
		if err != nil {
			return Identity{}, err
		}
		id.Format = Format
		return id, d.write(name, id)
	}
	if err != nil {
		return Identity{}, err
	}
	got, err := decode(b)
	if err != nil {
		return Identity{}, err
	}
	if got.Cluster == 0 || !slices.ContainsFunc(got.Members, func(m shard.Member) bool { return m.ID == got.Node }) {
		return Identity{}, fmt.Errorf("%s is damaged: this node is not among the members", identityName)
	}
	if got.Joined || !pinned {
		return got, nil
	}
	if got.Restored != "" {
		want.Cluster = RestoredCluster(want.Cluster, got.Restored)
	}
	if got.Cluster != want.Cluster && !akin(got, want) {
		return Identity{}, fmt.Errorf("it belongs to another cluster: it holds data of cluster %x, the flags describe cluster %x: name the directory of this node (--data-dir), or an empty one for a new node", got.Cluster, want.Cluster)
	}
	if got.Node != want.Node && shard.FindMember(got.Members, want.Node) >= 0 { // else it has other URLs now
		return Identity{}, fmt.Errorf("it belongs to another node: it holds data of node %s, the flags describe node %s: name the directory of this node (--data-dir), or an empty one for a new node", got.Node, want.Node)
	}
	return got, nil
}

// RestoredCluster is the id of a cluster that begins with a snapshot: members that begin with different ones, or with none, are not of one cluster.
func RestoredCluster(cluster uint64, digest string) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %s", cluster, digest))
	return binary.BigEndian.Uint64(sum[:]) | 1 // never 0
}

// akin reports whether the members that flags name can be those of a directory after some have come, have gone or have moved: none
// but that has happened to the ones, or they share another one than the directory's node. An id says URL and token.
func akin(got, want Identity) bool {
	within := func(ms, of []shard.Member) bool {
		return !slices.ContainsFunc(ms, func(m shard.Member) bool { return shard.FindMember(of, m.ID) < 0 })
	}
	another := func(m shard.Member) bool { return m.ID != got.Node && shard.FindMember(got.Members, m.ID) >= 0 }
	return slices.ContainsFunc(want.Members, another) || len(want.Members) != len(got.Members) && (within(want.Members, got.Members) || within(got.Members, want.Members))
}

// encode writes an identity with its checksum.
func encode(id Identity) ([]byte, error) {
	id.Checksum = ""
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return nil, err
	}
	id.Checksum = fmt.Sprintf("%08x", durable.CRC32C(0, b))
	b, err = json.MarshalIndent(id, "", "  ")
	return append(b, '\n'), err
}

// decode refuses whatever encode has not written, byte for byte. The format is looked at first: a
// later one may check itself in another way.
func decode(b []byte) (Identity, error) {
	var got Identity
	if err := json.Unmarshal(b, &got); err != nil {
		return Identity{}, fmt.Errorf("%s is damaged: %w", identityName, err)
	}
	if got.Format != Format {
		return Identity{}, fmt.Errorf("%s says format %d, this program reads format %d", identityName, got.Format, Format)
	}
	again, err := encode(got)
	if err != nil {
		return Identity{}, fmt.Errorf("%s is damaged: %w", identityName, err)
	}
	if !bytes.Equal(again, b) {
		return Identity{}, fmt.Errorf("%s is damaged: its checksum does not match", identityName)
	}
	got.Checksum = ""
	return got, nil
}

// mustBeEmpty keeps the node from moving into a directory that is somebody else's. Plain files
// are let be: logs of the node itself may be among them. So are certificates that it has made, before it could ask who it is.
func (d *Dir) mustBeEmpty() error {
	es, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range es {
		switch {
		case e.Name() == Member || e.Name() == Restore: // what the node begins with
			return nil
		}
	}
	for _, e := range es {
		switch {
		case e.IsDir() && e.Name() != "lost+found" && e.Name() != Fixtures:
			return fmt.Errorf("it is not empty (%s), and not a Pontoon data directory: %s is missing", e.Name(), identityName)
		}
	}
	return nil
}

// write makes the identity durable: complete or absent, whatever happens.
func (d *Dir) write(name string, id Identity) error {
	b, err := encode(id)
	if err != nil {
		return err
	}
	return durable.WriteFile(name, b)
}
