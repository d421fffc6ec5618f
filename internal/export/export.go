package export

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/clusterversion"
	"pontoon/internal/durable"
	"pontoon/internal/etcdfile"
	"pontoon/internal/extsort"
	"pontoon/internal/metaclient"
	"pontoon/shard"
	"pontoon/shard/router"
)

const (
	// prefix begins the names of what is made in the directory.
	prefix = "pontoon-export-"
	// runBytes is what is sorted in memory.
	runBytes = 64 << 20
	// spacePercent is what an export takes at most, in parts of what the store has in use here: the runs, compressed, and the file.
	spacePercent = 200
	// spaceSpare is what is left free in any case.
	spaceSpare = 64 << 20
	// versionPatience is how long the cluster may take to find out what all members speak, and versionPause how often is asked for that.
	versionPatience = 5 * time.Second
	versionPause    = 50 * time.Millisecond
	// attempts is how often is begun anew where what was cut has gone.
	attempts = 3
)

// Config is what an Exporter is built of.
type Config struct {
	Router  *router.Router
	Backend *backend.Backend
	// Dir is where files are made; what former exports have left there is removed. Empty: the directory for temporary files, which others use,
	// too, so that what was left there by a process that was killed stays.
	Dir    string
	Logger *slog.Logger
	// Free tells how many bytes a file in Dir may take. Default: what the file system says.
	Free func(dir string) (int64, error)
}

// Exporter makes snapshots, one at a time: the next waits for as long as its context lets it. Safe for concurrent use.
type Exporter struct {
	cfg  Config
	turn chan struct{}
}

// New returns an exporter.
func New(cfg Config) (*Exporter, error) {
	if cfg.Free == nil {
		cfg.Free = durable.Free
	}
	if cfg.Dir == "" {
		cfg.Dir = os.TempDir()
	} else if err := sweep(cfg.Dir); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return &Exporter{cfg: cfg, turn: make(chan struct{}, 1)}, nil
}

// sweep removes what exports that were killed have left.
func sweep(dir string) error {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), prefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// Snapshot is a file that is made. Close it: it is removed then.
type Snapshot struct {
	Revision int64
	f        *os.File
	size     int64
	done     func() error
}

// Size is the file's, in bytes.
func (s *Snapshot) Size() int64 { return s.size }

// Read implements io.Reader: it reads the file once.
func (s *Snapshot) Read(p []byte) (int, error) { return s.f.Read(p) }

// Close removes the file.
func (s *Snapshot) Close() error { return errors.Join(s.f.Close(), s.done()) }

// Snapshot makes a file of everything at a revision that is current between the call and its end. Errors are of package shard, or the context's:
// shard.ErrUnavailable where something of it was not to be had; shard.ErrNoSpace where the disk has no room for it.
func (e *Exporter) Snapshot(ctx context.Context) (io.ReadCloser, int64, error) {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	s, err := e.snapshot(ctx)
	if err != nil {
		<-e.turn
		return nil, 0, err
	}
	done := s.done
	s.done = func() error {
		defer func() { <-e.turn }()
		return done()
	}
	return s, s.size, nil
}

func (e *Exporter) snapshot(ctx context.Context) (s *Snapshot, err error) {
	if err := errors.Join(e.room(), e.await(ctx)); err != nil {
		return nil, err
	}
	for i := range attempts {
		if s, err = e.attempt(ctx); err == nil || !errors.Is(err, shard.ErrUnavailable) || ctx.Err() != nil {
			return s, err
		}
		e.cfg.Logger.Warn("an export has failed", "attempt", i+1, "of", attempts, "error", err)
	}
	return nil, err
}

// await waits until every member is known to speak what exports need: a cluster that has just begun is about to find out.
func (e *Exporter) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	client := e.cfg.Backend.Cluster.Client
	for {
		changed := client.Changed()
		if client.Active(clusterversion.Exports) {
			return nil
		}
		client.RefreshSoon()
		select {
		case <-changed:
		case <-time.After(versionPause):
		case <-ctx.Done():
			return fmt.Errorf("%w: a member of the cluster does not know exports yet", shard.ErrUnavailable)
		}
	}
}

// room refuses an export for which the disk has no space. What this node holds says how large it will be where it holds everything.
func (e *Exporter) room() error {
	sizes := e.cfg.Backend.Local.Sizes()
	need := sizes.InUse*spacePercent/100 + spaceSpare
	have, err := e.cfg.Free(e.cfg.Dir)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if have < need {
		return fmt.Errorf("%w: an export takes up to %d MiB, and %d MiB are free in %s", shard.ErrNoSpace, need>>20, have>>20, e.cfg.Dir)
	}
	return nil
}

// attempt makes the file in a directory of its own.
func (e *Exporter) attempt(ctx context.Context) (*Snapshot, error) {
	dir, err := os.MkdirTemp(e.cfg.Dir, prefix)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	remove := func() error { return os.RemoveAll(dir) }
	s, err := e.make(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	s.done = remove
	return s, nil
}

func (e *Exporter) make(ctx context.Context, dir string) (*Snapshot, error) {
	began := time.Now()
	before, err := e.cfg.Backend.Cluster.Client.GrantedLeases(ctx)
	if err != nil {
		return nil, err
	}
	cut, err := e.cfg.Router.Cut(ctx)
	if err != nil {
		return nil, err
	}
	defer cut.Close()
	c, err := e.contents(ctx, cut)
	if err != nil {
		return nil, err
	}
	sorter := extsort.New(dir, "rows", runBytes)
	used := map[int64]struct{}{}
	err = cut.Rows(ctx, func(rows []byte) error { return addRows(sorter, rows, used) })
	read := time.Now()
	cut.Close()
	path := filepath.Join(dir, "db")
	if err == nil {
		after, lerr := e.cfg.Backend.Cluster.Client.GrantedLeases(ctx)
		c.Leases, err = leasesOf(append(before, after...), used), lerr
	}
	if err == nil {
		err = write(ctx, path, sorter, c)
	}
	if err = errors.Join(err, sorter.Close()); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("export: %w", err), f.Close())
	}
	e.cfg.Logger.Info("a snapshot has been made", "revision", cut.Revision, "compact-revision", cut.Compact, "rows", sorter.Count(),
		"size", info.Size(), "read", read.Sub(began), "written", time.Since(read))
	return &Snapshot{Revision: cut.Revision, f: f, size: info.Size()}, nil
}

// addRows takes a page, and notes the leases that it names.
func addRows(sorter *extsort.Sorter, rows []byte, leases map[int64]struct{}) error {
	next := func() ([]byte, error) {
		n, k := binary.Uvarint(rows)
		if k <= 0 || n > uint64(len(rows)-k) {
			return nil, fmt.Errorf("%w: rows that are cut off", shard.ErrCorrupt)
		}
		b := rows[k : k+int(n)]
		rows = rows[k+int(n):]
		return b, nil
	}
	for len(rows) > 0 {
		key, err := next()
		if err != nil {
			return err
		}
		value, err := next()
		if err != nil {
			return err
		}
		row, err := etcdfile.ParseRow(key, value)
		if err != nil {
			return fmt.Errorf("%w: a row: %w", shard.ErrCorrupt, err)
		}
		if row.Lease != 0 {
			leases[row.Lease] = struct{}{}
		}
		if err := sorter.Add(key, value); err != nil {
			return err
		}
	}
	return nil
}

// write writes the sorted rows. Two with one revision would be a cut that has read something twice.
func write(ctx context.Context, path string, sorter *extsort.Sorter, c *etcdfile.Contents) error {
	w, err := etcdfile.Create(path, sorter.Bytes()*3/2)
	if err != nil {
		return err
	}
	m, err := sorter.Merge()
	if err != nil {
		return errors.Join(err, w.Abandon())
	}
	for n := 0; m.Next(); n++ {
		if err = w.Put(m.Key(), m.Value()); err == nil && n%1024 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, m.Close(), w.Abandon())
		}
	}
	if err := errors.Join(m.Err(), m.Close()); err != nil {
		return errors.Join(err, w.Abandon())
	}
	return w.Finish(c)
}

// contents is what the file has beside keys and leases. The position is none of a log of etcd's: it is only not 0.
func (e *Exporter) contents(ctx context.Context, cut *router.Cut) (*etcdfile.Contents, error) {
	meta := e.cfg.Backend.Local.Meta()
	members, err := e.cfg.Backend.Cluster.Client.Members(ctx)
	if err != nil {
		return nil, err
	}
	c := &etcdfile.Contents{
		ConsistentIndex: max(meta.Applied, 1), Term: max(meta.Term, 1), Compact: cut.Compact,
	}
	// The cut has asked the oracle: the settings here are not older than its revision.
	if c.Auth, err = usersOf(e.cfg.Backend.Cluster.Client.Settings().Auth.State); err != nil {
		return nil, err
	}
	for _, m := range shard.PresentMembers(members) {
		c.Members = append(c.Members, etcdfile.Member{ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner})
		if !m.Learner {
			c.Voters = append(c.Voters, uint64(m.ID))
		}
	}
	slices.SortFunc(c.Members, func(a, b etcdfile.Member) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(c.Voters)
	return c, nil
}

// smallestTTL is given to a lease that a key names and that is not there any more, in seconds: without it the key would live for ever.
const smallestTTL = 1

// leasesOf are the leases of which either list knows, and those that keys name beside.
func leasesOf(lists []metaclient.Lease, used map[int64]struct{}) []etcdfile.Lease {
	ttls := map[int64]int64{}
	for id := range used {
		ttls[id] = smallestTTL
	}
	for _, l := range lists {
		ttls[l.ID] = l.GrantedTTL
	}
	out := make([]etcdfile.Lease, 0, len(ttls))
	for id, ttl := range ttls {
		out = append(out, etcdfile.Lease{ID: id, TTL: ttl})
	}
	slices.SortFunc(out, func(a, b etcdfile.Lease) int { return cmp.Compare(uint64(a.ID), uint64(b.ID)) })
	return out
}
