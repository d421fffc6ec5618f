package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"
)

// Row is one version of a key in a file that a snapshot was saved to, or that it must have by the events of a watch.
type Row struct {
	Main, Sub                int64
	Del                      bool
	Key, Value               string
	Create, Version, LeaseID int64
}

// RowOf is the row of an event, the sub-th of its revision.
func RowOf(del bool, kv *mvccpb.KeyValue, sub int64) Row {
	if del {
		return Row{Main: kv.ModRevision, Sub: sub, Del: true, Key: string(kv.Key)}
	}
	return Row{Main: kv.ModRevision, Sub: sub, Key: string(kv.Key), Value: string(kv.Value), Create: kv.CreateRevision, Version: kv.Version, LeaseID: kv.Lease}
}

// Snapshot is such a file.
type Snapshot struct {
	Rows    []Row
	Compact int64           // 0: never
	Leases  map[int64]int64 // TTLs in seconds
}

// OpenSnapshot reads a file, whose pages bbolt has checked before.
func OpenSnapshot(path string) (*Snapshot, error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Leases: map[int64]int64{}}
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return s.read(tx)
	})
	return s, errors.Join(err, db.Close())
}

func (s *Snapshot) read(tx *bolt.Tx) error {
	for _, name := range []string{"key", "meta", "lease", "auth", "authUsers", "authRoles", "alarm", "cluster", "members", "members_removed"} {
		if tx.Bucket([]byte(name)) == nil {
			return fmt.Errorf("bucket %q is missing", name)
		}
	}
	if mark := tx.Bucket([]byte("meta")).Get([]byte("finishedCompactRev")); len(mark) >= 8 {
		s.Compact = int64(binary.BigEndian.Uint64(mark))
	}
	err := tx.Bucket([]byte("lease")).ForEach(func(_, v []byte) error {
		l := &leasepb.Lease{}
		if err := proto.Unmarshal(v, l); err != nil {
			return err
		}
		s.Leases[l.ID] = l.TTL
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket([]byte("key")).ForEach(func(k, v []byte) error {
		kv := &mvccpb.KeyValue{}
		if len(k) < 17 || k[8] != '_' {
			return fmt.Errorf("row %x", k)
		}
		if err := proto.Unmarshal(v, kv); err != nil {
			return err
		}
		row := RowOf(len(k) == 18, kv, int64(binary.BigEndian.Uint64(k[9:])))
		main := int64(binary.BigEndian.Uint64(k))
		if !row.Del && row.Main != main {
			return fmt.Errorf("row %x says revision %d", k, row.Main)
		}
		row.Main = main
		s.Rows = append(s.Rows, row)
		return nil
	})
}

// Revision is the current one of a store that is restored from the file.
func (s *Snapshot) Revision() int64 {
	if n := len(s.Rows); n > 0 {
		return max(s.Rows[n-1].Main, s.Compact, 1)
	}
	return max(s.Compact, 1)
}

// Check holds the file against all events, in order, at least up to its revision: it must be exactly the state at one revision, of which everything
// is there that was acknowledged before it was asked for (low), and nothing that was not there when it had come (high).
func (s *Snapshot) Check(events []Row, low, high int64) error {
	rev := s.Revision()
	if rev > high {
		return fmt.Errorf("revision %d, and %d was current when it had come", rev, high)
	}
	for i := range events {
		if e := &events[i]; e.Main > rev && e.Main <= low {
			return fmt.Errorf("it ends at revision %d, and %d was acknowledged before", rev, e.Main)
		}
	}
	want := Survivors(events, rev, s.Compact)
	for i := range max(len(want), len(s.Rows)) {
		switch {
		case i >= len(want):
			return fmt.Errorf("at revision %d, compacted at %d: row %d of %d is %+v, and should not be there", rev, s.Compact, i, len(want), s.Rows[i])
		case i >= len(s.Rows):
			return fmt.Errorf("at revision %d, compacted at %d: row %d of %d is missing: %+v", rev, s.Compact, i, len(want), want[i])
		case s.Rows[i] != want[i]:
			return fmt.Errorf("at revision %d, compacted at %d: row %d is %+v, not %+v", rev, s.Compact, i, s.Rows[i], want[i])
		}
	}
	for _, r := range s.Rows {
		if _, ok := s.Leases[r.LeaseID]; r.LeaseID != 0 && !ok {
			return fmt.Errorf("lease %x of %q at revision %d is not in the file: in etcd the key would live for ever", r.LeaseID, r.Key, r.Main)
		}
	}
	return nil
}

// Survivors are the events up to a revision that are left once everything is compacted at another: all above, and of each key the newest at or below,
// if it is no delete. A delete at exactly that revision stays: a watch may begin there.
func Survivors(events []Row, rev, compact int64) (out []Row) {
	last := map[string]int{}
	for i, e := range events {
		if e.Main <= min(compact, rev) {
			last[e.Key] = i
		}
	}
	for i, e := range events {
		if e.Main <= rev && (e.Main > compact || last[e.Key] == i && (!e.Del || e.Main == compact)) {
			out = append(out, e)
		}
	}
	return slices.Clip(out)
}
