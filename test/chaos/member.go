package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pontoon/test/e2e/harness"
)

// etcdctl is the program, as seen from the project's directory.
var etcdctl = filepath.Join("build", "bin", "etcdctl")

const (
	// guestsMax bounds the nodes that come and go in a run.
	guestsMax = 12
	// memberPause is the pause before the next step, and memberTry how long one may take at a time: it goes on where it was.
	memberPause = 500 * time.Millisecond
	memberTry   = 20 * time.Second
	// memberPatience is for how long a guest may stay when nothing hurts the cluster any more.
	memberPatience = 3 * time.Minute
)

// members lets nodes come and go: a guest is added by etcdctl and joins; one of the first members is drained, so that the guest gets replicas, and is taken
// back; the guest is removed, by etcdctl, and must end by itself when nothing needs it any more. A step that a fault has prevented is tried again.
type members struct {
	s      *site
	stages []stage

	mu      sync.Mutex // held through a step
	rng     *rand.Rand
	at      int
	guests  []*harness.Node // that have not come yet
	came    []*harness.Node // that have
	guest   *harness.Node
	id      uint64 // of the guest
	drained string
	rounds  int
	last    error
	wrong   []string
	wg      sync.WaitGroup
}

// stage is a step of a round. It may be begun again after an error.
type stage struct {
	what string
	do   func(ctx context.Context) error
}

func newMembers(s *site, guests []*harness.Node) *members {
	m := &members{s: s, guests: guests, rng: rand.New(rand.NewPCG(s.cfg.seed, 20))}
	m.stages = []stage{{"add a member", m.add}, {"let it join", m.join}, {"drain a node", m.drain}, {"undrain it", m.undrain}, {"remove the member", m.remove}, {"let it end", m.end}}
	return m
}

// describeGuests prepares nodes that may join. In a lab they have a host of their own, which is the last: one that stood on another node's would be cut off
// with it, and a range with two replicas there would take no write, as it should.
func (s *site) describeGuests() (guests []*harness.Node, err error) {
	base, at := len(s.c.Nodes), harness.Place{}
	if s.lab != nil {
		h := s.lab.Hosts[len(s.lab.Hosts)-1]
		at = harness.Place{IP: h.String(), Do: h.Do}
	}
	for i := range guestsMax {
		n, err := s.c.AddNodeAt(at, fmt.Sprintf("guest%d", i+1)) // gateways are called g1 and so on
		if err != nil {
			return nil, err
		}
		guests = append(guests, n)
	}
	s.c.Nodes = s.c.Nodes[:base:base]
	return guests, nil
}

// step carries one stage out, unless a step is under way.
func (m *members) step(ctx context.Context) {
	if !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	if m.at == 0 && len(m.guests) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, memberTry)
	defer cancel()
	if m.last = m.stages[m.at].do(ctx); m.last == nil {
		m.at = (m.at + 1) % len(m.stages)
	}
}

// along goes one step further without waiting for it.
func (m *members) along(ctx context.Context) { m.wg.Go(func() { m.step(ctx) }) }

// until goes on until ctx ends.
func (m *members) until(ctx context.Context) {
	for ctx.Err() == nil {
		m.step(ctx)
		pause(ctx, memberPause)
	}
}

// finish goes on until no guest is there.
func (m *members) finish(ctx context.Context, f *findings) {
	m.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	for m.at != 0 && ctx.Err() == nil {
		m.step(ctx)
		pause(ctx, memberPause)
	}
	if m.at != 0 {
		f.found("%s: it has failed for %v: %v\n%s", m.stages[m.at].what, memberPatience, m.last, m.guest.LogTail(20))
	}
	for _, w := range m.wrong {
		f.found("%s", w)
	}
	f.say("%d nodes have joined and left again", m.rounds)
	if m.rounds == 0 && m.last != nil {
		f.found("%s: it has never come to an end: %v", m.stages[m.at].what, m.last)
	}
}

// kill ends a guest that is there.
func (m *members) kill() error {
	m.wg.Wait()
	if m.guest == nil || !m.guest.Running() {
		return nil
	}
	return m.guest.Kill()
}

func (m *members) ctl() harness.Etcdctl {
	return harness.Etcdctl{Binary: etcdctl, Endpoints: m.s.c.Endpoints(), Flags: m.s.etcdctlFlags()}
}

// run runs etcdctl where clients are.
func (m *members) run(ctx context.Context, args ...string) (out string, err error) {
	do := func() error {
		out, err = m.ctl().Run(ctx, "", append([]string{"member"}, args...)...)
		return nil
	}
	if m.s.lab == nil {
		_ = do()
		return out, err
	}
	return out, errors.Join(m.s.lab.Hosts[m.s.cfg.nodes].Do(do), err)
}

// add lets a guest be a member. What has been added by a request whose answer was lost is found in the list.
func (m *members) add(ctx context.Context) error {
	if m.guest == nil {
		m.guest, m.guests = m.guests[0], m.guests[1:]
		m.came = append(m.came, m.guest)
	}
	g := m.guest
	id, initial, err := m.lookUp(ctx)
	if err == nil && id == 0 {
		if _, err = m.run(ctx, "add", g.Name, "--peer-urls="+g.PeerURL); err == nil {
			id, initial, err = m.lookUp(ctx)
		}
	}
	if err == nil && id == 0 {
		err = errors.New("it is not in the list")
	}
	if err != nil {
		return err
	}
	m.id = id
	g.Joins(initial)
	g.Args = append(g.Args, m.s.args...)
	return nil
}

// lookUp is the guest's id, 0 if it is no member, and what a node is told that joins.
func (m *members) lookUp(ctx context.Context) (id uint64, initial string, err error) {
	cl, err := m.s.connect(m.s.c.Nodes...)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	list, err := cl.MemberList(ctx)
	if err != nil {
		return 0, "", err
	}
	var all []string
	for _, is := range list.Members {
		name := is.Name
		if is.PeerURLs[0] == m.guest.PeerURL {
			id, name = is.ID, m.guest.Name
		}
		all = append(all, name+"="+is.PeerURLs[0])
	}
	return id, strings.Join(all, ","), nil
}

// join starts the guest. One that finds nobody to ask ends, and is started again.
func (m *members) join(ctx context.Context) error {
	if !m.guest.Running() {
		if err := m.guest.Start(); err != nil {
			return err
		}
	}
	return m.guest.WaitReady(ctx)
}

// drain moves everything off one of the first members.
func (m *members) drain(ctx context.Context) error {
	if m.drained == "" {
		m.drained = m.s.c.Nodes[m.rng.IntN(len(m.s.c.Nodes))].Name
	}
	if err := m.ask(ctx, true); err != nil {
		return err
	}
	pause(ctx, time.Duration(m.rng.IntN(8))*time.Second) // some of it, or all, has moved
	return nil
}

func (m *members) undrain(ctx context.Context) error {
	err := m.ask(ctx, false)
	if err == nil {
		m.drained = ""
	}
	return err
}

func (m *members) ask(ctx context.Context, drain bool) error {
	via := m.s.c.Nodes[m.rng.IntN(len(m.s.c.Nodes))]
	err := m.s.ops(via).Drain(ctx, m.drained, drain)
	if no := (*harness.Refusal)(nil); errors.As(err, &no) && no.Status == 500 {
		m.wrong = append(m.wrong, fmt.Sprintf("%s: drain %s: %v: %v", via.Name, m.drained, drain, err))
	}
	return err
}

// remove ends the guest's membership.
func (m *members) remove(ctx context.Context) error {
	_, err := m.run(ctx, "remove", fmt.Sprintf("%x", m.id))
	if err != nil && strings.Contains(err.Error(), "member not found") { // the answer was lost
		return nil
	}
	return err
}

// end waits until the guest has ended by itself, as a member that was removed does.
func (m *members) end(ctx context.Context) error {
	g := m.guest
	code, err := g.WaitExit(ctx)
	if err != nil {
		return fmt.Errorf("%s is still there: %w", g.Name, err)
	}
	if code != 0 || !strings.Contains(g.LogTail(20), "permanently removed") {
		m.wrong = append(m.wrong, fmt.Sprintf("%s was removed, and has ended with code %d:\n%s", g.Name, code, g.LogTail(20)))
	}
	m.guest, m.id = nil, 0
	m.rounds++
	return os.RemoveAll(g.DataDir)
}

// member lets nodes join and leave.
func member(ctx context.Context, o *ordeal) (*injury, error) {
	return o.during(ctx, "nodes join and leave", o.members.until), nil
}
