//go:build linux

package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newLab(t *testing.T, hosts int) *Lab {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	l, err := New(hosts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// echo answers on a host.
func echo(t *testing.T, h *Host) string {
	t.Helper()
	address := h.String() + ":7000"
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	return address
}

// ask sends a byte through a connection and waits for it.
func ask(c net.Conn, patience time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := c.SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return time.Since(began), err
}

func TestSwitch(t *testing.T) {
	l := newLab(t, 3)
	address := echo(t, l.Hosts[0])
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var conns [3]net.Conn
	for i := 1; i < 3; i++ {
		c, err := l.Hosts[i].Dial(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		conns[i] = c
		if _, err := ask(c, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	l.Set(0, 1, Link{Cut: true}) // answers alone
	if _, err := ask(conns[1], 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("through a cut wire: %v", err)
	}
	if _, err := ask(conns[2], 5*time.Second); err != nil {
		t.Errorf("beside a cut wire: %v", err)
	}
	l.Heal()
	if err := conns[1].SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conns[1], make([]byte, 1)); err != nil {
		t.Errorf("the lost answer did not come after all: %v", err)
	}

	l.Set(2, 0, Link{Delay: 100 * time.Millisecond})
	if took, err := ask(conns[2], 5*time.Second); err != nil || took < 100*time.Millisecond {
		t.Errorf("through a slow wire: %v, %v", took, err)
	}
	l.Set(2, 0, Link{Rate: 10_000})
	began := time.Now()
	go func() { _, _ = conns[2].Write(make([]byte, 20_000)) }()
	_ = conns[2].SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(conns[2], make([]byte, 20_000)); err != nil || time.Since(began) < time.Second {
		t.Errorf("20 kB at 10 kB/s: %v, %v", time.Since(began), err)
	}
}

func TestDisk(t *testing.T) {
	l := newLab(t, 1)
	h, dir := l.Hosts[0], t.TempDir()
	if err := h.Disk(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := h.FillDisk(dir); err != nil {
		t.Fatal(err)
	}
	write := func() error { return os.WriteFile(filepath.Join(dir, "f"), make([]byte, 10_000), 0o600) }
	if err := h.Do(write); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk took a file: %v", err)
	}
	if err := h.ClearDisk(dir); err != nil {
		t.Fatal(err)
	}
	if err := h.Do(write); err != nil {
		t.Errorf("a disk with space: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "f")); !os.IsNotExist(err) {
		t.Errorf("the disk is seen from outside: %v", err)
	}
}
