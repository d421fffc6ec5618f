package etcdfile

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"
)

const (
	// batchBytes is what a transaction takes in: what it holds in memory until it is written.
	batchBytes = 8 << 20
	// fill is how full pages are made: nothing comes between rows that ascend.
	fill = 0.95
	// mapBytesMin is the address space that is mapped at least; with what is expected bbolt maps once.
	mapBytesMin = 64 << 20
)

// Writer makes a file. Rows come in ascending order, then Finish.
type Writer struct {
	db   *bolt.DB
	path string
	tx   *bolt.Tx
	keys *bolt.Bucket
	size int
	last []byte
	held []byte // values of the open transaction: bbolt holds on to them until it is written
}

// Create makes a file at path, where there is none. expected is about how many bytes it will have.
func Create(path string, expected int64) (*Writer, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: int(max(expected, mapBytesMin)),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd's file: %w", err)
	}
	w := &Writer{db: db, path: path}
	if err := w.begin(); err != nil {
		return nil, errors.Join(err, w.Abandon())
	}
	for _, name := range buckets {
		if _, err := w.tx.CreateBucket([]byte(name)); err != nil {
			return nil, errors.Join(fmt.Errorf("etcd's file: %w", err), w.Abandon())
		}
	}
	w.keys = w.tx.Bucket([]byte(bucketKey))
	return w, nil
}

func (w *Writer) begin() (err error) {
	if w.tx, err = w.db.Begin(true); err != nil {
		return fmt.Errorf("etcd's file: %w", err)
	}
	if w.keys = w.tx.Bucket([]byte(bucketKey)); w.keys != nil {
		w.keys.FillPercent = fill
	}
	return nil
}

func (w *Writer) commit() error {
	tx := w.tx
	w.tx, w.size = nil, 0
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("etcd's file: %w", err)
	}
	w.held = w.held[:0]
	return nil
}

// hold copies a value for as long as the transaction is open.
func (w *Writer) hold(value []byte) []byte {
	if w.held == nil {
		w.held = make([]byte, 0, batchBytes)
	}
	if cap(w.held)-len(w.held) < len(value) {
		return append([]byte{}, value...)
	}
	from := len(w.held)
	w.held = append(w.held, value...)
	return w.held[from:len(w.held):len(w.held)]
}

// Put adds a row. It must lie above the last one. The bytes are the caller's.
func (w *Writer) Put(key, value []byte) error {
	if string(key) <= string(w.last) {
		return fmt.Errorf("etcd's file: row %x behind %x", key, w.last)
	}
	w.last = append(w.last[:0], key...)
	if w.size += len(key) + len(value); w.size > batchBytes {
		if err := w.commit(); err != nil {
			return err
		}
		if err := w.begin(); err != nil {
			return err
		}
	}
	w.keys.FillPercent = fill
	if err := w.keys.Put(key, w.hold(value)); err != nil {
		return fmt.Errorf("etcd's file: %w", err)
	}
	return nil
}

// Finish writes what is there beside keys and closes the file.
func (w *Writer) Finish(c *Contents) error {
	if err := w.contents(c); err != nil {
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	if err := w.db.Close(); err != nil {
		return fmt.Errorf("etcd's file: %w", err)
	}
	return nil
}

// Abandon closes and removes a file that will not be finished.
func (w *Writer) Abandon() error {
	var err error
	if w.tx != nil {
		err = w.tx.Rollback()
	}
	return errors.Join(err, w.db.Close(), os.Remove(w.path))
}

// contents writes every bucket but that of keys.
func (w *Writer) contents(c *Contents) error {
	if c.ConsistentIndex == 0 || c.Term == 0 {
		return errors.New("etcd's file: a consistent index and a term are required")
	}
	confState, err := json.Marshal(struct {
		Voters []uint64 `json:"voters"`
	}{c.Voters})
	if err != nil {
		return err
	}
	rows := []struct{ bucket, key, value string }{
		{bucketMeta, keyIndex, number(c.ConsistentIndex)}, {bucketMeta, keyTerm, number(c.Term)},
		{bucketMeta, keyConfState, string(confState)}, {bucketMeta, keyStorageVersion, Version},
		{bucketCluster, keyClusterVersion, Version}, {bucketCluster, keyDowngrade, noDowngrade},
		{bucketAuth, keyAuthEnabled, flag(c.Auth.Enabled)}, {bucketAuth, keyAuthRevision, number(c.Auth.Revision)},
	}
	add := func(bucket, key, value string) {
		rows = append(rows, struct{ bucket, key, value string }{bucket, key, value})
	}
	if c.Compact > 0 {
		mark := string(AppendRev(nil, Rev{Main: c.Compact}, false))
		add(bucketMeta, keyScheduledCompact, mark)
		add(bucketMeta, keyFinishedCompact, mark)
	}
	for _, l := range c.Leases {
		b, err := proto.Marshal(&leasepb.Lease{ID: l.ID, TTL: l.TTL, RemainingTTL: l.Remaining})
		if err != nil {
			return fmt.Errorf("etcd's file: %w", err)
		}
		add(bucketLease, number(uint64(l.ID)), string(b))
	}
	for _, u := range c.Auth.Users {
		add(bucketAuthUsers, u.Name, string(u.Data))
	}
	for _, r := range c.Auth.Roles {
		add(bucketAuthRoles, r.Name, string(r.Data))
	}
	for _, m := range c.Members {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		add(bucketMembers, fmt.Sprintf("%x", m.ID), string(b))
	}
	for _, id := range c.Removed {
		add(bucketMembersRemoved, fmt.Sprintf("%x", id), "removed")
	}
	for _, r := range rows {
		if err := w.tx.Bucket([]byte(r.bucket)).Put([]byte(r.key), []byte(r.value)); err != nil {
			return fmt.Errorf("etcd's file: %w", err)
		}
	}
	return nil
}

func number(v uint64) string { return string(binary.BigEndian.AppendUint64(nil, v)) }

func flag(on bool) string {
	if on {
		return "\x01"
	}
	return "\x00"
}
