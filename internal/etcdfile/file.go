package etcdfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"

	"pontoon/shard"
)

// sectorBytes tells a file with a checksum behind it: a database is a multiple of it.
const sectorBytes = 512

// The reasons for which a file is not taken that is to be a snapshot, in etcdutl's words.
var (
	ErrNoSum    = errors.New("snapshot missing hash but --skip-hash-check=false")
	errNoBucket = errors.New("a bucket is missing")
)

// File is one that is read. Safe for one goroutine.
type File struct {
	f    *os.File
	size int64 // without the checksum
	sum  []byte
}

// Open opens a file. Close it.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	file := &File{f: f}
	if err := file.measure(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func (f *File) measure() error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", f.f.Name())
	}
	f.size = info.Size()
	if f.size%sectorBytes != sha256.Size {
		return nil
	}
	f.size -= sha256.Size
	f.sum = make([]byte, sha256.Size)
	_, err = f.f.ReadAt(f.sum, f.size)
	return err
}

// Close closes it.
func (f *File) Close() error { return f.f.Close() }

// Size is that of the database.
func (f *File) Size() int64 { return f.size }

// VerifySum compares the checksum behind the database. ErrNoSum: there is none, as in a file that was copied from a data directory.
func (f *File) VerifySum() error {
	if f.sum == nil {
		return ErrNoSum
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f.f, 0, f.size)); err != nil {
		return err
	}
	if got := h.Sum(nil); !bytes.Equal(got, f.sum) {
		return fmt.Errorf("%w: expected sha256 %v, got %v", shard.ErrCorrupt, f.sum, got)
	}
	return nil
}

// CopyTo writes the database, without the checksum.
func (f *File) CopyTo(w io.Writer) error {
	_, err := io.Copy(w, io.NewSectionReader(f.f, 0, f.size))
	return err
}

// open reads the root: every bucket by its name.
func (f *File) open() (*pages, map[string]bucket, error) {
	p, err := openPages(f.f, f.size)
	if err != nil {
		return nil, nil, err
	}
	found := map[string]bucket{}
	var last []byte
	err = p.walk(p.root, 0, &last, func(key, value []byte, is bool) error {
		if !is {
			return damaged("a value %q that is in no bucket", key)
		}
		b, err := parseBucket(value)
		if err != nil {
			return damaged("bucket %q: %w", key, err)
		}
		found[string(key)] = b
		return nil
	})
	return p, found, err
}

// Visitor gets the elements of all buckets, and of each, before its elements, nil. The bytes are valid during the call.
type Visitor func(bucket string, key, value []byte) error

// Each visits everything in the file, bucket by bucket in the order of their names, keys in order, and so looks at every page in use.
func (f *File) Each(visit Visitor) error {
	p, found, err := f.open()
	if err != nil {
		return err
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := visit(name, nil, nil); err != nil {
			return err
		}
		if err := p.each(found[name], noBuckets(name, func(key, value []byte) error { return visit(name, key, value) })); err != nil {
			return err
		}
	}
	return nil
}

// noBuckets is a visitor of a bucket in which there are none.
func noBuckets(name string, visit func(key, value []byte) error) visitor {
	return func(key, value []byte, is bool) error {
		if is {
			return damaged("bucket %q has a bucket %q", name, key)
		}
		return visit(key, value)
	}
}

// Rows visits the rows of the key bucket, in the order of revisions. Their bytes are valid during the call.
func (f *File) Rows(visit func(r *Row) error) error {
	p, found, err := f.open()
	if err != nil {
		return err
	}
	b, ok := found[bucketKey]
	if !ok {
		return fmt.Errorf("%w: %q: %w", shard.ErrCorrupt, bucketKey, errNoBucket)
	}
	var last Rev
	return p.each(b, noBuckets(bucketKey, func(key, value []byte) error {
		r, err := ParseRow(key, value)
		if err == nil && !last.Less(r.Rev) && last != (Rev{}) {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return damaged("revision %x: %w", key, err)
		}
		last = r.Rev
		return visit(&r)
	}))
}

// Contents reads what there is beside keys. It refuses a bucket that it does not know, by name, and a file without one of those that every file has.
func (f *File) Contents() (*Contents, error) {
	p, found, err := f.open()
	if err != nil {
		return nil, err
	}
	for name := range found {
		if !slices.Contains(buckets, name) && name != bucketTest {
			return nil, fmt.Errorf("%w: the file has a bucket %q, which is none of etcd's", shard.ErrInvalid, name)
		}
	}
	c := &Contents{}
	for _, name := range []string{bucketKey, bucketMeta} {
		if _, ok := found[name]; !ok {
			return nil, fmt.Errorf("%w: %q: %w: is it a file of etcd's?", shard.ErrCorrupt, name, errNoBucket)
		}
	}
	for name, read := range map[string]func(key, value []byte) error{
		bucketMeta: c.readMeta, bucketLease: c.readLease, bucketAuth: c.readAuth,
		bucketAuthUsers:      func(k, v []byte) error { c.Auth.Users = append(c.Auth.Users, named(k, v)); return nil },
		bucketAuthRoles:      func(k, v []byte) error { c.Auth.Roles = append(c.Auth.Roles, named(k, v)); return nil },
		bucketMembers:        c.readMember,
		bucketMembersRemoved: c.readRemoved,
	} {
		b, ok := found[name]
		if !ok {
			continue // an older version's
		}
		err := p.each(b, noBuckets(name, func(key, value []byte) error {
			if err := read(key, value); err != nil {
				return damaged("bucket %q, key %q: %w", name, key, err)
			}
			return nil
		}))
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func named(k, v []byte) Named { return Named{string(k), bytes.Clone(v)} }

func eight(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%d bytes where a number has 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (c *Contents) readMeta(key, value []byte) (err error) {
	switch string(key) {
	case keyIndex:
		c.ConsistentIndex, err = eight(value)
	case keyTerm:
		c.Term, err = eight(value)
	case keyConfState:
		var conf struct {
			Voters []uint64 `json:"voters"`
		}
		err = json.Unmarshal(value, &conf)
		c.Voters = conf.Voters
	case keyStorageVersion:
		c.StorageVersion = string(value)
	case keyScheduledCompact, keyFinishedCompact:
		rev, _, perr := ParseRev(value)
		c.Compact, err = max(c.Compact, rev.Main), perr
	}
	return err
}

func (c *Contents) readLease(key, value []byte) error {
	id, err := eight(key)
	if err != nil {
		return err
	}
	l := &leasepb.Lease{}
	if err := proto.Unmarshal(value, l); err != nil {
		return err
	}
	if l.ID != int64(id) {
		return fmt.Errorf("it says lease %x", l.ID)
	}
	c.Leases = append(c.Leases, Lease{l.ID, l.TTL, l.RemainingTTL})
	return nil
}

func (c *Contents) readAuth(key, value []byte) (err error) {
	switch string(key) {
	case keyAuthEnabled:
		c.Auth.Enabled = bytes.Equal(value, []byte{1})
	case keyAuthRevision:
		c.Auth.Revision, err = eight(value)
	}
	return err
}

func (c *Contents) readMember(_, value []byte) error {
	m := Member{}
	if err := json.Unmarshal(value, &m); err != nil {
		return err
	}
	c.Members = append(c.Members, m)
	return nil
}

func (c *Contents) readRemoved(key, _ []byte) error {
	var id uint64
	if _, err := fmt.Sscanf(string(key), "%x", &id); err != nil {
		return err
	}
	c.Removed = append(c.Removed, id)
	return nil
}
