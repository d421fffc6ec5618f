package durable

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fileMode is that of everything written here: data of the node's, nobody else's.
const fileMode = 0o600

// WriteFile makes data the content of path. After an error the old content is still there.
func WriteFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	if err := finish(f, data); err != nil {
		return err
	}
	return Rename(tmp, path)
}

// Stage writes data to a new file in dir, whose name os.CreateTemp makes of pattern, and syncs it.
// Rename puts it where it belongs. After an error nothing is left.
func Stage(dir, pattern string, data []byte) (path string, err error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", err
	}
	return f.Name(), finish(f, data)
}

// finish fills, syncs and closes a new file, or removes it.
func finish(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Rename moves a synced file to path, over what is there, and returns when that would survive a
// crash. Both are in one directory, or in directories of one file system of which only the new
// one matters.
func Rename(staged, path string) error {
	if err := os.Rename(staged, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes what was created, renamed or removed in dir survive a crash.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C is the checksum of b and of what crc is the checksum of, 0 for nothing. All that is stored or streamed
// has it.
func CRC32C(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// Free is how many bytes the file system of dir has for this process.
func Free(dir string) (int64, error) {
	free, _, err := Space(dir)
	return free, err
}

// Space is how many bytes the file system of dir has for this process, and how many are in use, by whoever.
func Space(dir string) (free, used int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks-st.Bfree) * st.Bsize, nil
}
