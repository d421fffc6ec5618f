package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// The directory of replicas has one directory for each, with the store's file in it.

// ListDirs lists the ranges that have a directory below dir, in no order. What else is there is left out.
func ListDirs(dir string) ([]shard.RangeID, error) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	var out []shard.RangeID
	for _, e := range ents {
		number, ok := strings.CutPrefix(e.Name(), "r")
		id, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || shard.RangeID(id).String() != e.Name() {
			continue
		}
		out = append(out, shard.RangeID(id))
	}
	return out, nil
}

// ListLeft is ListDirs at a start, before any replica is open: it removes the files of children that were being made at the end before.
func ListLeft(dir string) ([]shard.RangeID, error) {
	ids, err := ListDirs(dir)
	for _, id := range ids {
		if rerr := os.Remove(filepath.Join(dir, id.String(), newFile)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("replica: %w", rerr))
		}
	}
	return ids, err
}

// StorePath is where the file of a range's store is, below dir.
func StorePath(dir string, id shard.RangeID) string {
	return filepath.Join(dir, id.String(), storeFile)
}

// HasFile reports whether the range has a store's file below dir.
func HasFile(dir string, id shard.RangeID) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, id.String(), storeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// RemoveDir removes what a range has below dir.
func RemoveDir(dir string, id shard.RangeID) error {
	if err := os.RemoveAll(filepath.Join(dir, id.String())); err != nil {
		return fmt.Errorf("%v: %w", id, err)
	}
	return durable.SyncDir(dir)
}

// RemoveEmptyDir removes the directory of a range below dir, if nothing is in it.
func RemoveEmptyDir(dir string, id shard.RangeID) error {
	dir = filepath.Join(dir, id.String())
	if ents, err := os.ReadDir(dir); err != nil || len(ents) > 0 {
		return err
	}
	return os.Remove(dir)
}

// Inspect tells what the file of a range that is not open says: what the range is, and up to where it holds its log. The
// descriptor is empty where the file has none.
func Inspect(dir string, id shard.RangeID) (shard.Descriptor, mvcc.Position, error) {
	st, err := mvcc.Open(mvcc.Options{Path: filepath.Join(dir, id.String(), storeFile), RangeID: id})
	if err != nil {
		return shard.Descriptor{}, mvcc.Position{}, err
	}
	d := &pb.Descriptor{}
	err = d.UnmarshalVT(st.State(apply.StateDesc))
	pos := st.Position()
	return pb.ToDescriptor(d), pos, errors.Join(err, st.Close())
}
