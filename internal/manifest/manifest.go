package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pontoon/internal/datadir"
	"pontoon/internal/durable"
	"pontoon/internal/etcdfile"
	"pontoon/mvcc"
	"pontoon/shard"
)

const (
	name   = "restore.json"
	dbName = "db"
	format = 1 // the only one
)

// Manifest says who a node is that begins with the database beside it, and how.
type Manifest struct {
	Format  int            `json:"format"`
	Name    string         `json:"name"`
	Cluster uint64         `json:"cluster,string"` // of the members and the token, as in etcd
	Node    shard.NodeID   `json:"node,string"`
	Members []shard.Member `json:"members"`
	Plan    Plan           `json:"plan"`
}

// Plan is what is asked for beside the content.
type Plan struct {
	// Bump is how many revisions are left out behind the last.
	Bump int64 `json:"bump,omitempty"`
	// MarkCompacted forgets everything below the current revision.
	MarkCompacted bool `json:"markCompacted,omitempty"`
	// Ranges is into how many ranges of about equal size the keys are cut; 0: so that each has about 256 MiB.
	Ranges int `json:"ranges,omitempty"`
	// SplitKeys are borders instead.
	SplitKeys [][]byte `json:"splitKeys,omitempty"`
}

// Load reads what Leave has left in a data directory, and where the database is. Nil: there is nothing.
func Load(dataDir string) (m *Manifest, db string, err error) {
	dir := filepath.Join(dataDir, datadir.Restore)
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); err == nil {
			return nil, "", fmt.Errorf("%s: a restore has not come to its end: remove the directory, and restore again", dir)
		}
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	m = &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, "", fmt.Errorf("%s: %w: %w", name, shard.ErrCorrupt, err)
	}
	if m.Format != format {
		return nil, "", fmt.Errorf("%s says format %d, this program reads format %d", name, m.Format, format)
	}
	return m, filepath.Join(dir, dbName), nil
}

// Leave copies the database of a file into a data directory, with what a node needs to begin with it. The directory must be new or empty. The content
// is looked at as a whole before.
func Leave(dataDir string, f *etcdfile.File, m Manifest) error {
	ents, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(ents) > 0 {
		return fmt.Errorf("data-dir %q not empty or could not be read", dataDir)
	}
	if err := Check(f); err != nil {
		return err
	}
	dir := filepath.Join(dataDir, datadir.Restore)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	db, err := os.OpenFile(filepath.Join(dir, dbName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.CopyTo(db), db.Sync(), db.Close()); err != nil {
		return err
	}
	m.Format = format
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, name), b)
}

// Check reads everything in a file, and refuses what no store of ours can hold.
func Check(f *etcdfile.File) error {
	if _, err := f.Contents(); err != nil {
		return err
	}
	return f.Rows(CheckRow)
}

// CheckRow refuses a key that is too long.
func CheckRow(r *etcdfile.Row) error {
	if len(r.Key) > mvcc.MaxKeyBytes {
		return fmt.Errorf("%w: key %q… has %d bytes, and keys are limited to %d: delete it before the snapshot is taken", shard.ErrInvalid, r.Key[:shownBytes], len(r.Key), mvcc.MaxKeyBytes)
	}
	return nil
}

// shownBytes is how much of a key an error shows.
const shownBytes = 32
