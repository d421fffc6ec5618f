package restore

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pontoon/internal/datadir"
	"pontoon/internal/durable"
	"pontoon/internal/etcdfile"
	"pontoon/internal/extsort"
	"pontoon/internal/manifest"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/replica/apply"
)

const (
	// rangeBytes is how large ranges are made where nobody says how many there are to be.
	rangeBytes = 256 << 20
	// runBytes is what is sorted in memory.
	runBytes = 64 << 20
	// restoredGeneration is that of ranges that are made of a snapshot: only those of the first begin with nothing where there is no file.
	restoredGeneration = 2

	bootstrapName = "bootstrap.pb"
	sortDir       = "restore-sort"
)

// Config is what an import is made of.
type Config struct {
	Source  *Source
	DataDir string
	Plan    manifest.Plan
	// ReplicationFactor is how many replicas a range has; all first members must say the same.
	ReplicationFactor int
	Logger            *slog.Logger
}

// Result is who the node is.
type Result struct {
	Digest  string
	Cluster uint64
}

// Import makes the files of this node's replicas, and the plan by which the cluster is laid out. Whatever an import that was killed has left is made
// anew. Nothing of the source is changed.
func Import(cfg Config) (Result, error) {
	began := time.Now()
	im := &importer{cfg: cfg, dir: filepath.Join(cfg.DataDir, datadir.Ranges), sum: sha256.New(), holders: map[int64]map[int]struct{}{}}
	if im.cfg.Source.Plan != nil {
		im.cfg.Plan = *cfg.Source.Plan
	}
	tmp := filepath.Join(cfg.DataDir, sortDir)
	for _, left := range []string{tmp, im.dir, filepath.Join(cfg.DataDir, bootstrapName)} {
		if err := os.RemoveAll(left); err != nil {
			return Result{}, err
		}
	}
	for _, dir := range []string{tmp, im.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return Result{}, err
		}
	}
	im.rows = extsort.New(tmp, "rows", runBytes)
	err := im.run()
	if err = errors.Join(err, im.rows.Close(), os.RemoveAll(tmp)); err != nil {
		return Result{}, fmt.Errorf("restore %s: %w", cfg.Source.Path, err)
	}
	digest := hex.EncodeToString(im.plan.Restored.Digest)
	res := Result{Digest: digest, Cluster: datadir.RestoredCluster(cfg.Source.Cluster, digest)}
	im.plan.ClusterId = res.Cluster
	if err := im.save(); err != nil {
		return Result{}, fmt.Errorf("restore %s: %w", cfg.Source.Path, err)
	}
	cfg.Logger.Info("the state of a snapshot has been made the beginning of this node", "path", cfg.Source.Path, "revision", im.revision, "compact-revision", im.compact,
		"rows", im.rows.Count(), "ranges", len(im.plan.Ranges), "leases", len(im.plan.Restored.Leases), "digest", digest, "took", time.Since(began))
	return res, nil
}

// importer is an import under way.
type importer struct {
	cfg  Config
	dir  string // of the ranges
	rows *extsort.Sorter
	sum  hash.Hash

	contents *etcdfile.Contents
	bytes    int64 // of all rows, as sorted
	revision int64
	compact  int64
	plan     *pb.MetaBootstrap
	descs    []shard.Descriptor
	holders  map[int64]map[int]struct{} // the ranges in which a lease has keys, by their places
}

func (im *importer) run() error {
	f, err := etcdfile.Open(im.cfg.Source.Path)
	if err != nil {
		return err
	}
	err = im.read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	keys := im.cfg.Plan.SplitKeys
	if len(keys) == 0 {
		if keys, err = im.quantiles(); err != nil {
			return err
		}
	}
	if err := im.layOut(keys); err != nil {
		return err
	}
	if err := im.fill(); err != nil {
		return err
	}
	im.plan.Restored.Leases = im.leases()
	im.plan.Restored.Digest = im.digest()
	tokens(im.plan.Restored.Auth)
	return durable.SyncDir(im.dir)
}

// read takes in every row of the file.
func (im *importer) read(f *etcdfile.File) (err error) {
	if im.contents, err = f.Contents(); err != nil {
		return err
	}
	im.revision = state.FirstRevision
	var order, value []byte
	err = f.Rows(func(r *etcdfile.Row) error {
		if err := manifest.CheckRow(r); err != nil {
			return err
		}
		im.revision = max(im.revision, r.Main)
		if len(r.Key) == 0 {
			return nil // a revision in which nothing was written
		}
		order = mvcc.AppendOrder(order[:0], r.Key, mvcc.Rev{Main: r.Main, Sub: r.Sub})
		rev := etcdfile.AppendRev(nil, r.Rev, r.Tombstone)
		value = r.AppendValue(append(append(value[:0], byte(len(rev))), rev...))
		im.bytes += int64(len(value))
		return im.rows.Add(order, value)
	})
	im.compact = im.contents.Compact
	im.revision = max(im.revision, im.compact) + im.cfg.Plan.Bump
	if im.cfg.Plan.MarkCompacted {
		im.compact = im.revision
	}
	return err
}

// each visits the rows in key order, of each key the newest first.
func (im *importer) each(visit func(r *etcdfile.Row, size int) error) error {
	m, err := im.rows.Merge()
	if err != nil {
		return err
	}
	for m.Next() {
		v := m.Value()
		n := 1 + int(v[0])
		r, err := etcdfile.ParseRow(v[1:n], v[n:])
		if err == nil {
			err = visit(&r, len(v))
		}
		if err != nil {
			return errors.Join(err, m.Close())
		}
	}
	return errors.Join(m.Err(), m.Close())
}

// quantiles are the keys that cut what there is into ranges of about equal size.
func (im *importer) quantiles() (keys [][]byte, err error) {
	ranges := int64(im.cfg.Plan.Ranges)
	if ranges == 0 {
		ranges = im.bytes/rangeBytes + 1
	}
	if ranges == 1 {
		return nil, nil
	}
	var seen int64
	var before []byte
	err = im.each(func(r *etcdfile.Row, size int) error {
		if due := im.bytes * int64(len(keys)+1) / ranges; before != nil && seen >= due && string(r.Key) != string(before) && int64(len(keys))+1 < ranges {
			keys = append(keys, slices.Clone(r.Key))
		}
		before = append(before[:0], r.Key...)
		seen += int64(size)
		return nil
	})
	return keys, err
}

// layOut decides which ranges there are and who holds them.
func (im *importer) layOut(splitKeys [][]byte) error {
	im.plan = placement.Bootstrap(placement.Layout{Members: im.cfg.Source.Members, SplitKeys: splitKeys, ReplicationFactor: im.cfg.ReplicationFactor})
	if im.plan == nil {
		return fmt.Errorf("%w: the initial cluster has no voting member", shard.ErrInvalid)
	}
	for _, d := range im.plan.Ranges {
		d.Generation = restoredGeneration
	}
	im.descs = pb.ToDescriptors(im.plan.Ranges)
	users, err := usersOf(&im.contents.Auth)
	im.plan.Restored = &pb.MetaRestored{Revision: im.revision, Compact: im.compact, Auth: users}
	return err
}

// fill makes the files of the ranges that this node holds, one after the other.
func (im *importer) fill() error {
	known := map[int64]bool{}
	for _, l := range im.contents.Leases {
		known[l.ID] = true
	}
	b := &rangeFiles{im: im, at: -1}
	if err := b.next(); err != nil {
		return errors.Join(err, b.discard())
	}
	var before []byte
	err := im.each(func(r *etcdfile.Row, _ int) error {
		for !im.descs[b.at].Span.Contains(r.Key) {
			if err := b.next(); err != nil {
				return err
			}
		}
		newest := before == nil || string(before) != string(r.Key)
		before = append(before[:0], r.Key...)
		if newest && !r.Tombstone && known[r.Lease] {
			if im.holders[r.Lease] == nil {
				im.holders[r.Lease] = map[int]struct{}{}
			}
			im.holders[r.Lease][b.at] = struct{}{}
		}
		im.note(r)
		return b.put(r)
	})
	if err != nil {
		return errors.Join(err, b.discard())
	}
	for b.at < len(im.descs) {
		if err := b.next(); err != nil {
			return errors.Join(err, b.discard())
		}
	}
	return b.wait()
}

// note takes a row into the digest.
func (im *importer) note(r *etcdfile.Row) {
	rev := etcdfile.AppendRev(nil, r.Rev, r.Tombstone)
	value := r.AppendValue(nil)
	head := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(rev))), uint64(len(value)))
	for _, b := range [][]byte{head, rev, value} {
		_, _ = im.sum.Write(b)
	}
}

// leases are those of the file, with the spans of the ranges in which they have keys.
func (im *importer) leases() (out []*pb.MetaLease) {
	for _, l := range im.contents.Leases {
		m := &pb.MetaLease{Id: l.ID, Ttl: l.TTL}
		for i := range im.descs {
			if _, holds := im.holders[l.ID][i]; holds {
				m.Spans = append(m.Spans, pb.FromSpan(im.descs[i].Span))
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *pb.MetaLease) int { return cmp.Compare(a.Id, b.Id) })
	return out
}

// digest is of every row, and of the plan.
func (im *importer) digest() []byte {
	_, _ = im.sum.Write(apply.Marshal(im.plan)) // the cluster's id is not in it yet
	return im.sum.Sum(nil)
}

// save writes the plan: then the node can begin.
func (im *importer) save() error {
	b := apply.Marshal(im.plan)
	sum := sha256.Sum256(b)
	return durable.WriteFile(filepath.Join(im.cfg.DataDir, bootstrapName), append(sum[:], b...))
}

// LoadPlan reads the plan of a node that has begun with a snapshot. Nil: it has not.
func LoadPlan(dataDir string) (*pb.MetaBootstrap, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, bootstrapName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b) < sha256.Size || sha256.Sum256(b[sha256.Size:]) != [sha256.Size]byte(b[:sha256.Size]) {
		return nil, fmt.Errorf("%s: %w: its checksum does not match", bootstrapName, shard.ErrCorrupt)
	}
	plan := &pb.MetaBootstrap{}
	if err := plan.UnmarshalVT(b[sha256.Size:]); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", bootstrapName, shard.ErrCorrupt, err)
	}
	return plan, nil
}

// rangeFiles fills one range after the other. Of those that this node does not hold nothing is written. The log of a range, which is written in an order of its
// own once all is there, is written beside the next range.
type rangeFiles struct {
	im     *importer
	at     int
	build  *mvcc.Build  // nil: the range is not held here
	ending <-chan error // of the range before; nil: it has ended
}

// next ends the range and begins the one behind it.
func (b *rangeFiles) next() error {
	if b.build != nil {
		if err := b.wait(); err != nil {
			return err
		}
		build, state, ending := b.build, b.state(), make(chan error, 1)
		b.build, b.ending = nil, ending
		go func() { ending <- build.Finish(state) }() // wait is always called
	}
	b.at++
	if b.at >= len(b.im.descs) {
		return nil
	}
	d := b.im.descs[b.at]
	if _, here := d.ReplicaOn(b.im.cfg.Source.Node); !here {
		return nil
	}
	path := replica.StorePath(b.im.dir, d.ID)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var err error
	b.build, err = mvcc.BeginBuild(path, d.ID, mvcc.Position(raftgroup.BirthPosition()), b.im.revision, b.im.compact)
	return err
}

func (b *rangeFiles) put(r *etcdfile.Row) error {
	if b.build == nil {
		return nil
	}
	return b.build.Put(&shard.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: r.Create, ModRevision: r.Main, Version: r.Version, Lease: r.Lease}, r.Sub, r.Tombstone)
}

// state is what the range knows of itself and of leases.
func (b *rangeFiles) state() []mvcc.StateUpdate {
	d := b.im.descs[b.at]
	out := apply.Birth(d, b.im.revision)
	for id, in := range b.im.holders {
		if _, holds := in[b.at]; holds {
			out = append(out, apply.Attached(id, state.RestoredGrant, d.Span))
		}
	}
	return out
}

// wait waits for the end of the range before.
func (b *rangeFiles) wait() error {
	if b.ending == nil {
		return nil
	}
	err := <-b.ending
	b.ending = nil
	return err
}

func (b *rangeFiles) discard() error {
	err := b.wait()
	if b.build != nil {
		err = errors.Join(err, b.build.Discard())
	}
	return err
}
