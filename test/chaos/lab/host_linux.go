package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// mtu of the hosts: large, because every packet passes through this program.
const mtu = 16000

// Host is a machine: a thread of this program that lives in namespaces of its own.
type Host struct {
	IP net.IP

	run  chan func()
	tun  *os.File
	net  int // descriptor of the network namespace
	done chan struct{}
}

// Available tells what is missing for a lab; nil when nothing is.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	h, err := newHost(net.IPv4(10, 77, 255, 1))
	if err != nil {
		return err
	}
	h.close()
	return nil
}

func newHost(ip net.IP) (*Host, error) {
	h := &Host{IP: ip.To4(), run: make(chan func()), net: -1, done: make(chan struct{})}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread has no way back, and ends with this goroutine.
		runtime.LockOSThread()
		defer close(h.done)
		ready <- h.setUp()
		for fn := range h.run {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// setUp runs on the host's thread.
func (h *Host) setUp() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("lab: a namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("lab: private mounts: %w", err)
	}
	var err error
	if h.net, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("lab: the namespace: %w", err)
	}
	if err := up("lo", nil); err != nil {
		return err
	}
	if h.tun, err = openTun("eth0"); err != nil {
		return err
	}
	return up("eth0", h.IP)
}

func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("lab: /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd) // the first error counts
		return nil, fmt.Errorf("lab: a tunnel: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// up brings an interface of the thread's namespace up, with an address if there is one.
func up(name string, ip net.IP) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lab: %s: %w", name, err)
	}
	defer func() { _ = unix.Close(s) }()
	set := func(req uint, fill func(*unix.Ifreq) error) {
		var ifr *unix.Ifreq
		if err != nil {
			return
		}
		if ifr, err = unix.NewIfreq(name); err == nil {
			if err = fill(ifr); err == nil {
				err = unix.IoctlIfreq(s, req, ifr)
			}
		}
	}
	if ip != nil {
		set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip) })
		set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
		set(unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil })
	}
	set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	if err != nil {
		return fmt.Errorf("lab: %s: %w", name, err)
	}
	return nil
}

// Do runs fn on the host: files, sockets and processes that it opens are the host's.
func (h *Host) Do(fn func() error) error {
	result := make(chan error)
	h.run <- func() { result <- fn() }
	return <-result
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	out := make(chan result, 1)
	go func() {
		// A socket belongs to the namespace of the thread that makes it. The thread is not
		// given back: it ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(h.net, unix.CLONE_NEWNET); err != nil {
			out <- result{err: fmt.Errorf("lab: %w", err)}
			return
		}
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
		out <- result{c, err}
	}()
	r := <-out
	return r.c, r.err
}

// Disk gives the host a disk of its own on dir, of so many bytes.
func (h *Host) Disk(dir string, bytes int64) error {
	return h.Do(func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
			return fmt.Errorf("lab: a disk on %s: %w", dir, err)
		}
		return nil
	})
}

const ballast = "ballast"

// FillDisk writes to the disk on dir until nothing is left.
func (h *Host) FillDisk(dir string) error {
	return h.Do(func() error {
		f, err := os.Create(filepath.Join(dir, ballast))
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			return err
		} else if err != nil {
			return nil
		}
		defer func() { _ = f.Close() }() // what matters is that it is full
		for size := 1 << 20; size >= 4096; {
			if _, err = f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("lab: fill %s: %w", dir, err)
		}
		return nil
	})
}

// ClearDisk gives the space back that FillDisk has taken.
func (h *Host) ClearDisk(dir string) error {
	return h.Do(func() error {
		err := os.Remove(filepath.Join(dir, ballast))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (h *Host) close() {
	if h.tun != nil {
		_ = h.tun.Close() // nothing can be lost
	}
	close(h.run)
	<-h.done
	if h.net >= 0 {
		_ = unix.Close(h.net)
	}
}
