package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"pontoon/test/e2e/harness"
)

// smallDisk is the size of the disk of TestDiskFull.
const smallDisk = 384 << 20

// TestDiskFull: a node on a small disk of its own raises NOSPACE while there is room for what comes behind that, and compaction, Defragment and a disarm lead out.
// When somebody else fills the disk to its last byte nothing is acknowledged that is not there after a kill, reads are right as long as the node serves, and it says
// what is wrong; when there is space again it goes on, by itself or after a start.
func TestDiskFull(t *testing.T) {
	pontoonOnly(t)
	lengthy(t)
	t.Run("quota", func(t *testing.T) { fillDisk(t, true) })
	t.Run("no quota", func(t *testing.T) { fillDisk(t, false, "--quota-backend-bytes=-1") }) // nothing stands between the writers and the last byte
}

func fillDisk(t *testing.T, alarms bool, args ...string) {
	c := describeCluster(t, harness.Options{Nodes: 1, Ranges: 4, Args: args})
	n := c.Nodes[0]
	if err := os.MkdirAll(n.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", n.DataDir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", smallDisk)); err != nil {
		t.Skipf("a disk of its own needs the right to mount, which is not given here: %v", err)
	}
	t.Cleanup(func() { // behind the end of the node
		if n.Running() {
			_ = n.Kill()
		}
		if err := unix.Unmount(n.DataDir, 0); err != nil {
			t.Error(err)
		}
	})
	ctx := testContext(t, limit(3*time.Minute))
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c)
	d := &disk{n: n, acked: map[string]string{}}
	if alarms {
		d.fillToAlarm(ctx, t, cl)
		d.leadOut(ctx, t, cl)
	}
	d.fillWholly(ctx, t, cl)
	d.spaceAgain(ctx, t, c, cl)
	d.fillWholly(ctx, t, cl)
	d.goOn(ctx, t, c)
}

// disk is a node on a disk of its own, and what was acknowledged.
type disk struct {
	n     *harness.Node
	acked map[string]string
	seq   int
}

// free is what is left of it, in bytes.
func (d *disk) free(t *testing.T) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.n.DataDir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// put writes a value of its own, and notes it where that is acknowledged.
func (d *disk) put(ctx context.Context, cl *clientv3.Client, size int) error {
	one, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d.seq++
	key, value := fmt.Sprintf("%c/%d", byte(d.seq*37), d.seq), fmt.Sprintf("%d/%s", d.seq, strings.Repeat("v", size))
	_, err := cl.Put(one, key, value)
	if err == nil {
		d.acked[key] = value
	}
	return err
}

// fillToAlarm writes until there is no space.
func (d *disk) fillToAlarm(ctx context.Context, t *testing.T, cl *clientv3.Client) {
	var err error
	for err == nil && d.seq < 10*smallDisk>>18 {
		err = d.put(ctx, cl, 256<<10)
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("after %d values of 256 KiB: %v\n%s", d.seq, err, d.n.LogTail(5))
	}
	if free := d.free(t); free < 8<<20 {
		t.Errorf("%d bytes were free when NOSPACE was raised", free)
	}
	if alarms, err := cl.AlarmList(ctx); err != nil || len(alarms.Alarms) != 1 {
		t.Errorf("alarms: %v, %v", alarms, err)
	}
	t.Logf("NOSPACE after %d values of 256 KiB, with %d MiB free", d.seq, d.free(t)>>20)
}

// leadOut makes room under the alarm, and clears it.
func (d *disk) leadOut(ctx context.Context, t *testing.T, cl *clientv3.Client) {
	del, err := cl.Delete(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatalf("deletes under the alarm: %v", err)
	}
	clear(d.acked)
	if _, err := cl.Compact(ctx, del.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatalf("compaction under the alarm: %v", err)
	}
	eventually(t, limit(30*time.Second), "defragmentation makes room under the alarm", func() error {
		if _, err := cl.Defragment(ctx, cl.Endpoints()[0]); err != nil {
			return err
		}
		st, err := cl.Status(ctx, cl.Endpoints()[0])
		if err == nil && st.DbSize > smallDisk/8 {
			err = fmt.Errorf("%d bytes are taken", st.DbSize)
		}
		return err
	})
	if _, err := cl.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		t.Fatalf("disarm: %v", err)
	}
	for range 20 {
		if err := d.put(ctx, cl, 16<<10); err != nil {
			t.Fatalf("after the disarm: %v", err)
		}
	}
}

// fillWholly takes every byte of the disk, and writes until the node does not take anything any more, or has ended.
func (d *disk) fillWholly(ctx context.Context, t *testing.T, cl *clientv3.Client) {
	ballast, err := os.Create(filepath.Join(d.n.DataDir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ballast.Close() }()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := ballast.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	taken, refused := 0, 0
	for refused < 10 && taken < 4000 && d.n.Running() && ctx.Err() == nil {
		if err := d.put(ctx, cl, 16<<10); err != nil {
			refused++
			continue
		}
		taken++
	}
	t.Logf("on a full disk: %d writes of 16 KiB taken, %d not; the node runs: %v", taken, refused, d.n.Running())
	if d.n.Running() {
		d.holds(ctx, t, cl)
	}
	if log := d.n.LogTail(40); !strings.Contains(log, "no space left on device") && !strings.Contains(log, "NOSPACE") {
		t.Errorf("the node does not say what is wrong:\n%s", log)
	}
}

// spaceAgain gives the disk back: the node takes writes again, by itself, or after a start where it has ended.
func (d *disk) spaceAgain(ctx context.Context, t *testing.T, c *harness.Cluster, cl *clientv3.Client) {
	if err := os.Remove(filepath.Join(d.n.DataDir, "ballast")); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(20*time.Second), "it takes writes when there is space again", func() error {
		if !d.n.Running() {
			t.Log("it has ended, and is started")
			if err := c.Start(ctx); err != nil {
				return err
			}
		}
		if _, err := cl.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			return err
		}
		return d.put(ctx, cl, 1<<10)
	})
	d.holds(ctx, t, cl)
}

// holds reads everything that was acknowledged.
func (d *disk) holds(ctx context.Context, t *testing.T, cl *clientv3.Client) {
	t.Helper()
	for key, value := range d.acked {
		resp, err := cl.Get(ctx, key)
		switch {
		case err != nil && !d.n.Running():
			return
		case err != nil:
			t.Fatalf("%s: %v", key, err)
		case len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value:
			t.Fatalf("%s was acknowledged, and is %.40v", key, resp.Kvs)
		}
	}
}

// goOn kills the node while its disk is full, makes space, and starts it.
func (d *disk) goOn(ctx context.Context, t *testing.T, c *harness.Cluster) {
	if err := d.n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(d.n.DataDir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c)
	if _, err := cl.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		t.Errorf("disarm: %v", err)
	}
	d.holds(ctx, t, cl)
	eventually(t, limit(10*time.Second), "it takes writes", func() error { return d.put(ctx, cl, 1<<10) })
	t.Logf("%d values that were acknowledged are there", len(d.acked))
}
