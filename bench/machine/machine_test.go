package machine

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
	"time"
)

func TestProcess(t *testing.T) {
	fs := fstest.MapFS{
		"7/stat":   {Data: []byte("7 (a b) c) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 9 0 100 1000 25 18446744073709551615\n")},
		"7/status": {Data: []byte("Name:\ta b) c\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t  100 kB\n")},
		"7/io":     {Data: []byte("rchar: 1\nwchar: 2\nwrite_bytes: 9000\ncancelled_write_bytes: 1000\n")},
	}
	u, err := process(fs, 7)
	if err != nil {
		t.Fatal(err)
	}
	want := Usage{CPU: 2 * time.Second, Written: 8000, Resident: 200 << 10, PeakRSS: 300 << 10, Anon: 100 << 10}
	if u != want {
		t.Errorf("got %+v, want %+v", u, want)
	}
	if sum := u.Add(u); sum.CPU != 4*time.Second || sum.Written != 16000 || sum.Anon != 200<<10 {
		t.Errorf("the sum is %+v", sum)
	}
	for _, broken := range []string{"7/stat", "7/status", "7/io"} {
		kept := fs[broken]
		fs[broken] = &fstest.MapFile{Data: []byte("7 (x) S 1\n")}
		if u, err := process(fs, 7); err == nil {
			t.Errorf("a broken %s was read as %+v", broken, u)
		}
		fs[broken] = kept
	}
	if _, err := process(fs, 8); err == nil {
		t.Error("a process that is not there was read")
	}
}

func TestBusy(t *testing.T) {
	fs := fstest.MapFS{"stat": {Data: []byte("cpu  100 20 30 5000 700 1 2 47 9 9\ncpu0 1 2 3\n")}}
	if d, err := busy(fs); err != nil || d != 2*time.Second {
		t.Errorf("%v, %v", d, err)
	}
	for _, broken := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8 9\n", "cpu a 2 3 4 5 6 7 8\n"} {
		fs["stat"].Data = []byte(broken)
		if d, err := busy(fs); err == nil {
			t.Errorf("%q was read as %v", broken, d)
		}
	}
}

func TestFileSystem(t *testing.T) {
	mounts := "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\nx /a\\040b btrfs rw 0 0\n"
	for path, want := range map[string]string{
		"/home/x": "ext4", "/tmp": "tmpfs", "/tmp/x": "tmpfs", "/tmpx": "ext4", "/tmp/disk/x": "xfs", "/a b/c": "btrfs",
	} {
		if got := fileSystem(mounts, path); got != want {
			t.Errorf("%s lies on %s, want %s", path, got, want)
		}
	}
	if !InMemory("tmpfs") || InMemory("ext4") {
		t.Error("what is in memory?")
	}
}

func TestSelfAndSampler(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	u, err := Self()
	if err != nil || u.PeakRSS < u.Anon || u.Anon == 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	s := Follow(func() []int { return []int{os.Getpid()} }, time.Hour) // the first sample comes at once
	for {
		s.mu.Lock()
		n := len(s.all)
		s.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	peak, samples := s.Stop()
	if peak == 0 || len(samples) == 0 || samples[0].Anon != peak {
		t.Errorf("peak %d, samples %v", peak, samples)
	}
	if m := Describe("."); m.Cores == 0 || m.Memory == 0 || m.Kernel == "" || m.FileSystem == "" {
		t.Errorf("%+v", m)
	}
}

func TestSamplerThinsOut(t *testing.T) {
	s := &Sampler{}
	for i := range samplesMax {
		thinned := s.note(Sample{Second: float64(i), Anon: int64(i)})
		if thinned != (i == samplesMax-1) {
			t.Fatalf("thinned at %d: %v", i, thinned)
		}
	}
	if len(s.all) != samplesMax/2 || s.all[1].Second != 2 || s.anon != samplesMax-1 {
		t.Errorf("%d left, second %v, peak %d", len(s.all), s.all[1].Second, s.anon)
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	empty, err := Disk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "full"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Disk(dir)
	if err != nil || got-empty < 1<<20 || got-empty > 2<<20 {
		t.Errorf("a file of 1 MiB and a hole take %d bytes, %v", got-empty, err)
	}
	if _, err := Disk(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a directory that has gone: %v", err)
	}
}
