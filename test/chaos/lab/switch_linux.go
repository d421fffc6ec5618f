package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// queueMax bounds the packets on their way between two hosts; more are dropped, as routers do.
const queueMax = 2000

// Link is what packets in one direction between two hosts meet.
type Link struct {
	Cut   bool          // nothing gets through
	Loss  float64       // the share that is lost
	Delay time.Duration // of each packet
	Rate  float64       // bytes per second; 0: unlimited
}

// Lab is some hosts and the switch between them.
type Lab struct {
	Hosts []*Host

	wg    sync.WaitGroup
	done  chan struct{}
	wires [][]*wire // from, to
}

// wire is one direction between two hosts.
type wire struct {
	to    *os.File
	queue chan packet

	mu   sync.Mutex
	link Link
	free time.Time // when the next packet may go, at a bounded rate
}

type packet struct {
	at   time.Time
	data []byte
}

// New makes some hosts that reach one another.
func New(hosts int) (*Lab, error) {
	l := &Lab{done: make(chan struct{})}
	for i := range hosts {
		h, err := newHost(net.IPv4(10, 77, 0, byte(i+1)))
		if err != nil {
			l.Close()
			return nil, err
		}
		l.Hosts = append(l.Hosts, h)
	}
	l.wires = make([][]*wire, hosts)
	for from := range hosts {
		for to := range hosts {
			w := &wire{to: l.Hosts[to].tun, queue: make(chan packet, queueMax)}
			l.wires[from] = append(l.wires[from], w)
			l.background(func() { w.deliver(l.done) })
		}
	}
	for from, h := range l.Hosts {
		l.background(func() { l.forward(from, h.tun) })
	}
	return l, nil
}

func (l *Lab) background(fn func()) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		fn()
	}()
}

// Set changes what packets from one host to another meet.
func (l *Lab) Set(from, to int, link Link) {
	w := l.wires[from][to]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.link = link
}

// Heal lets all packets through at once.
func (l *Lab) Heal() {
	for from := range l.wires {
		for to := range l.wires[from] {
			l.Set(from, to, Link{})
		}
	}
}

// forward passes on what a host sends.
func (l *Lab) forward(from int, tun *os.File) {
	buf := make([]byte, mtu+100)
	for {
		n, err := tun.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n < 20 || buf[0]>>4 != 4 {
			continue // not IPv4: such as the kernel's own greetings of IPv6
		}
		to := int(buf[19]) - 1 // the last byte of the destination
		if to < 0 || to >= len(l.Hosts) || buf[16] != 10 || buf[17] != 77 {
			continue
		}
		l.wires[from][to].send(buf[:n])
	}
}

// send puts a packet on its way, or drops it.
func (w *wire) send(data []byte) {
	w.mu.Lock()
	link := w.link
	now := time.Now()
	at := now.Add(link.Delay)
	if link.Rate > 0 {
		if w.free.Before(now) {
			w.free = now
		}
		w.free = w.free.Add(time.Duration(float64(len(data)) / link.Rate * float64(time.Second)))
		at = w.free.Add(link.Delay)
	}
	w.mu.Unlock()
	if link.Cut || link.Loss > 0 && rand.Float64() < link.Loss {
		return
	}
	select {
	case w.queue <- packet{at: at, data: append([]byte(nil), data...)}:
	default:
	}
}

// deliver hands packets over when their time has come. They keep their order.
func (w *wire) deliver(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case p := <-w.queue:
			if wait := time.Until(p.at); wait > 0 {
				t := time.NewTimer(wait)
				select {
				case <-t.C:
				case <-done:
					t.Stop()
					return
				}
			}
			w.mu.Lock()
			cut := w.link.Cut
			w.mu.Unlock()
			if !cut {
				_, _ = w.to.Write(p.data) // a packet that the host does not take is lost
			}
		}
	}
}

// Close ends the hosts. What still runs on them loses its network.
func (l *Lab) Close() {
	close(l.done)
	for _, h := range l.Hosts {
		h.close()
	}
	l.wg.Wait()
}

// String names the host by its address.
func (h *Host) String() string { return fmt.Sprint(h.IP) }
