package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/datadir"
	"pontoon/internal/etcdfile"
	"pontoon/internal/manifest"
	"pontoon/shard"
)

// Source is what a node that has no data is to begin with.
type Source struct {
	Path    string // of the database
	Cluster uint64 // of the members and the token
	Node    shard.NodeID
	Members []shard.Member
	// Plan is set where the source says it.
	Plan *manifest.Plan
}

// Find looks into a data directory that no node has started on. walDir is where etcd's log is, if not there. Nil: there is nothing to begin with.
func Find(dataDir, walDir string) (*Source, error) {
	for _, find := range []func() (*Source, error){
		func() (*Source, error) { return findManifest(dataDir) },
		func() (*Source, error) { return findMember(filepath.Join(dataDir, datadir.Member), walDir) },
	} {
		if s, err := find(); s != nil || err != nil {
			return s, err
		}
	}
	return nil, nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func findManifest(dataDir string) (*Source, error) {
	m, db, err := manifest.Load(dataDir)
	if m == nil || err != nil {
		return nil, err
	}
	return &Source{Path: db, Cluster: m.Cluster, Node: m.Node, Members: m.Members, Plan: &m.Plan}, nil
}

// findMember looks at a directory of etcd's.
func findMember(dir, walDir string) (*Source, error) {
	path := filepath.Join(dir, "snap", "db")
	if there, err := exists(path); !there || err != nil {
		if there, serr := exists(dir); there && err == nil && serr == nil {
			return nil, fmt.Errorf("%s holds no database (snap/db): is it etcd's?", dir)
		}
		return nil, err
	}
	if logs, err := filepath.Glob(filepath.Join(walDir, "*.wal")); walDir == "" || err != nil || len(logs) == 0 {
		walDir = filepath.Join(dir, "wal")
	}
	s := &Source{Path: path}
	last, err := s.readLog(walDir)
	if err != nil {
		return nil, fmt.Errorf("etcd's log in %s: %w", walDir, err)
	}
	f, err := etcdfile.Open(path)
	if err != nil {
		return nil, err
	}
	c, err := f.Contents()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if last > c.ConsistentIndex {
		return nil, fmt.Errorf("%s is of an etcd that has not ended cleanly: its log goes to entry %d, its database to %d: start etcd on it and stop it cleanly, or restore a snapshot (`client snapshot restore`, `etcdutl snapshot restore`)",
			dir, last, c.ConsistentIndex)
	}
	for _, m := range c.Members {
		s.Members = append(s.Members, shard.Member{ID: shard.NodeID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.IsLearner})
	}
	if shard.FindMember(s.Members, s.Node) < 0 {
		return nil, fmt.Errorf("%s: %w: its member %v is not among its members", dir, shard.ErrCorrupt, s.Node)
	}
	return s, nil
}

// readLog reads who the member is, and returns the index of the last entry.
func (s *Source) readLog(dir string) (last uint64, err error) {
	snaps, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		return 0, err
	}
	at := &walpb.Snapshot{Index: new(uint64), Term: new(uint64)}
	if len(snaps) > 0 {
		at = snaps[len(snaps)-1]
	}
	w, err := wal.OpenForRead(zap.NewNop(), dir, at)
	if err != nil {
		return 0, err
	}
	metadata, _, entries, err := w.ReadAll()
	_ = w.Close() // it also closes what only a log has that is written, and says that this has none
	if err != nil {
		return 0, err
	}
	m := &etcdserverpb.Metadata{}
	if err := proto.Unmarshal(metadata, m); err != nil {
		return 0, err
	}
	s.Node, s.Cluster = shard.NodeID(m.GetNodeID()), m.GetClusterID()
	if last = at.GetIndex(); len(entries) > 0 {
		last = entries[len(entries)-1].GetIndex()
	}
	return last, nil
}
