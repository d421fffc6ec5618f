package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/config"
	"pontoon/internal/etcdfile"
	"pontoon/internal/manifest"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Saves, shows and restores snapshots of the whole store, in etcd's format"}
	cmd.AddCommand(a.snapshotSaveCommand(), a.snapshotStatusCommand(), a.snapshotRestoreCommand())
	return cmd
}

func (a *app) snapshotSaveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Saves a snapshot of the whole store, at one revision, to a file",
		Args:  takes(1, 1, "snapshot save expects one argument: the file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(a.flags.endpoints) != 1 {
				return badArgs("snapshot must be requested to one selected node, not multiple %v", a.flags.endpoints)
			}
			return a.with(func(c *clientv3.Client) error { return a.saveSnapshot(cmd.Context(), c, args[0]) })
		},
	}
}

// saveSnapshot writes to a file of another name until all of it is there, and has been compared with its checksum.
func (a *app) saveSnapshot(ctx context.Context, c *clientv3.Client, path string) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part) }() // it has its name by then
	began := time.Now()
	resp, err := c.SnapshotWithVersion(ctx)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	n, err := io.Copy(f, &progress{r: resp.Snapshot, to: a.err})
	if err = errors.Join(err, resp.Snapshot.Close()); err == nil {
		err = checkSum(f, n)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Snapshot saved at %s\nServer version %s\n", path, resp.Version)
	fmt.Fprintf(a.err, "%d bytes in %v\n", n, time.Since(began).Round(time.Millisecond))
	return nil
}

// checkSum compares what has come with the checksum behind it: a stream that was cut off may have none.
func checkSum(f *os.File, n int64) error {
	if n < sha256.Size {
		return fmt.Errorf("the snapshot was cut off after %d bytes", n)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, n-sha256.Size); err != nil {
		return err
	}
	sum, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(sum, h.Sum(nil)) {
		err = errors.New("the snapshot was cut off, or its checksum does not match")
	}
	return err
}

// progress tells now and then how much has come.
type progress struct {
	r    io.Reader
	to   io.Writer
	n    int64
	last time.Time
}

const progressEvery = time.Second

// Read implements io.Reader.
func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	if now := time.Now(); p.last.IsZero() {
		p.last = now
	} else if now.Sub(p.last) >= progressEvery {
		p.last = now
		fmt.Fprintf(p.to, "%d MB\n", p.n/1_000_000)
	}
	return n, err
}

func (a *app) snapshotStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status FILE",
		Short: "Shows what is in a snapshot, as etcdutl does",
		Args:  takes(1, 1, "snapshot status expects one argument: the file"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := etcdfile.Open(args[0])
			if err != nil {
				return err
			}
			st, err := f.Status()
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			return a.print.cluster.snapshot(st)
		},
	}
}

// snapshot shows a file's status, in etcdutl's forms.
func (p clusterPrinter) snapshot(st etcdfile.Status) error {
	row := []string{fmt.Sprintf("%x", st.Hash), strconv.FormatInt(st.Revision, 10), strconv.Itoa(st.TotalKey), strconv.FormatInt(st.TotalSize, 10), st.Version}
	return p.show(rendering{
		simple: func(w io.Writer) { fmt.Fprintf(w, "%s, %s, %s, %s, %s\n", row[0], row[1], row[2], row[3], row[4]) },
		fields: func(w *fieldWriter) {
			w.field("Hash", st.Hash)
			w.field("Revision", st.Revision)
			w.field("Keys", st.TotalKey)
			w.field("Size", st.TotalSize)
			w.field("Version", st.Version)
		},
		header: []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"},
		rows:   [][]string{row},
		json:   st,
	})
}

// restoreFlags are etcdutl's, and how the keys are cut.
type restoreFlags struct {
	dataDir, walDir, cluster, token, peerURLs, name string
	skipHashCheck, markCompacted                    bool
	bump                                            uint64
	ranges                                          string
	splitKeys                                       []string
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Makes a data directory with which a member of a new cluster begins from a snapshot; each first member needs one from the same file",
		Args:  takes(1, 1, "snapshot restore expects one argument: the file"),
		RunE:  func(_ *cobra.Command, args []string) error { return a.restoreSnapshot(args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.dataDir, "data-dir", "", "the directory to make; default: NAME.pontoon")
	fs.StringVar(&f.walDir, "wal-dir", "", "the directory that the node will be given for its log: it must not be there")
	fs.StringVar(&f.cluster, "initial-cluster", "", "the first members, as the nodes are given them; default: this one alone")
	fs.StringVar(&f.token, "initial-cluster-token", "etcd-cluster", "the cluster's token")
	fs.StringVar(&f.peerURLs, "initial-advertise-peer-urls", "http://localhost:2380", "this member's peer URLs")
	fs.StringVar(&f.name, "name", "default", "this member's name")
	fs.BoolVar(&f.skipHashCheck, "skip-hash-check", false, "take a file without a checksum, which was copied from a data directory")
	fs.Uint64Var(&f.bump, "bump-revision", 0, "how much higher the revision is to be than in the snapshot")
	fs.BoolVar(&f.markCompacted, "mark-compacted", false, "forget all history (required if --bump-revision > 0, disallowed otherwise)")
	fs.StringVar(&f.ranges, "initial-ranges", "auto", "into how many ranges of about equal size the keys are cut; auto: about 256 MiB each")
	fs.StringSliceVar(&f.splitKeys, "initial-split-keys", nil, "borders between ranges instead; Go's escapes are understood")
	return cmd
}

// plan is how the keys are cut, and what becomes of revisions.
func (f *restoreFlags) plan() (p manifest.Plan, err error) {
	if f.markCompacted != (f.bump > 0) {
		return p, badArgs("--mark-compacted required if --bump-revision > 0, and disallowed otherwise")
	}
	const bumpMax = 1 << 62
	if f.bump > bumpMax {
		return p, badArgs("--bump-revision is too large")
	}
	p = manifest.Plan{Bump: int64(f.bump), MarkCompacted: f.markCompacted}
	if f.ranges != "auto" {
		if p.Ranges, err = strconv.Atoi(f.ranges); err != nil || p.Ranges < 1 {
			return p, badArgs("--initial-ranges is %q, want auto or a number", f.ranges)
		}
	}
	for _, key := range f.splitKeys {
		k, err := strconv.Unquote(`"` + key + `"`)
		if err != nil {
			return p, badArgs("--initial-split-keys: %q: %w", key, err)
		}
		p.SplitKeys = append(p.SplitKeys, []byte(k))
	}
	return p, nil
}

func (a *app) restoreSnapshot(path string, flags restoreFlags) error {
	plan, err := flags.plan()
	if err != nil {
		return err
	}
	if flags.cluster == "" {
		flags.cluster = flags.name + "=" + flags.peerURLs
	}
	if flags.dataDir == "" {
		flags.dataDir = flags.name + ".pontoon"
	}
	if flags.walDir != "" {
		if _, err := os.Stat(flags.walDir); err == nil {
			return fmt.Errorf("wal-dir %q exists", flags.walDir)
		}
	}
	members, cluster, node, err := config.FirstMember(flags.name, flags.cluster, flags.token, flags.peerURLs)
	if err != nil {
		return err
	}
	f, err := etcdfile.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was read only
	if !flags.skipHashCheck {
		if err := f.VerifySum(); err != nil {
			return err
		}
	}
	if err := manifest.Leave(flags.dataDir, f, manifest.Manifest{Name: flags.name, Cluster: cluster, Node: node, Members: members, Plan: plan}); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Snapshot restored to %s: start the node with --data-dir %s\n", flags.dataDir, flags.dataDir)
	return nil
}
