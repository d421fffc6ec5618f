package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"first, and longer", "second"} {
		if err := os.WriteFile(path+".tmp", []byte("what a crash left, longer than either of them"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	onlyFile(t, dir, "f")
}

func TestWriteFileKeepsTheOldOneOnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil { // a rename over it fails
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new")); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if _, err := os.Stat(filepath.Join(path, "in the way")); err != nil {
		t.Error(err)
	}
	if err := WriteFile(filepath.Join(dir, "no such directory", "f"), nil); err == nil {
		t.Error("no error without a directory")
	}
}

func TestStageAndRename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	staged, err := Stage(dir, "new-", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("staging has changed the file: %q", got)
	}
	if got, _ := os.ReadFile(staged); string(got) != "new" {
		t.Errorf("staged %q", got)
	}
	if err := Rename(staged, path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "new" {
		t.Errorf("renamed %q", got)
	}
	onlyFile(t, dir, "f")
}

func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 1 || es[0].Name() != name {
		t.Errorf("the directory holds %v, want %s alone", es, name)
	}
}

func TestCRC32C(t *testing.T) {
	const check = 0xe3069283 // of the nine digits, by the catalogue of checksums
	if crc := CRC32C(0, []byte("123456789")); crc != check {
		t.Errorf("%#x", crc)
	}
	if crc := CRC32C(CRC32C(CRC32C(0, []byte("1234")), nil), []byte("56789")); crc != check {
		t.Errorf("in parts: %#x", crc)
	}
}
