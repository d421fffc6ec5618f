package metaclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// View is what a node knows of the cluster. Values are immutable.
type View struct {
	Map       *shard.Map // nil before the first answer; its version is the view's
	ClusterID uint64
	Members   []shard.Member
	Meta      shard.Descriptor
	Version   clusterversion.Version // of the formats; 0 before the first answer: only the first may be written
}

// views keeps the newest view, and fetches a newer one where somebody wants it or an answer speaks of it.
type views struct {
	calls   *caller
	current atomic.Pointer[View]

	mu struct {
		sync.Mutex
		closed   bool
		fetching bool
		fetchers []func(error) // wait for the fetch in flight
		next     []func(error) // came later: for the one after it
		changed  chan struct{}
	}
}

func (v *views) init(calls *caller) {
	v.calls = calls
	v.current.Store(&View{Meta: calls.cfg.Meta})
	v.mu.changed = make(chan struct{})
}

// close refuses whoever comes from now on.
func (v *views) close() {
	v.mu.Lock()
	v.mu.closed = true
	v.mu.Unlock()
}

// View returns the newest known view.
func (v *views) View() *View { return v.current.Load() }

// Map returns the newest known range map, nil before the first answer.
func (v *views) Map() *shard.Map { return v.current.Load().Map }

// Active reports whether a feature may be written: every member is known to read it. It may be behind, and
// never ahead.
func (v *views) Active(f clusterversion.Feature) bool { return v.View().Version.Active(f) }

// Members returns the members as the leader knows them now, those too that are leaving.
func (v *views) Members(ctx context.Context) ([]shard.Member, error) {
	if err := v.Refresh(ctx); err != nil {
		return nil, err
	}
	return v.View().Members, nil
}

// Changed returns a channel that is closed when a newer view than the present one is known.
func (v *views) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.changed
}

// Refresh fetches the view that the leader has now.
func (v *views) Refresh(ctx context.Context) error {
	_, err := wait(ctx, func(cb func(struct{}, error)) { v.RefreshFunc(func(err error) { cb(struct{}{}, err) }) })
	return err
}

// RefreshFunc is Refresh with a callback, which must not block. Concurrent callers share a fetch, but not one
// that began before they came.
func (v *views) RefreshFunc(cb func(error)) {
	v.mu.Lock()
	if v.mu.closed || len(v.mu.next) >= queueMax {
		err := shard.ErrUnavailable
		if !v.mu.closed {
			err = shard.ErrTooManyRequests
		}
		v.mu.Unlock()
		cb(err)
		return
	}
	v.mu.next = append(v.mu.next, cb)
	v.fetchUnlock()
}

// fetchUnlock begins a fetch if somebody waits and none is in flight, and releases mu.
func (v *views) fetchUnlock() {
	if v.mu.fetching || len(v.mu.next) == 0 {
		v.mu.Unlock()
		return
	}
	v.mu.fetching = true
	v.mu.fetchers, v.mu.next = v.mu.next, nil
	v.mu.Unlock()
	v.fetch(v.current.Load())
}

// fetch asks for what is otherwise than in base, which is a view of before, and for everything where that has no map.
func (v *views) fetch(base *View) {
	req := &pb.DescriptorsRequest{Differences: true}
	if base.Map != nil {
		req.KnownVersion = base.Map.Version()
	}
	v.calls.call(&attempt{req: &pb.PeerRequest{Descriptors: req}, done: func(resp *pb.PeerResponse, err error) {
		if err == nil {
			err = v.learn(base, resp.Descriptors)
		}
		if errors.Is(err, errOtherBase) && base.Map != nil {
			v.fetch(&View{})
			return
		}
		v.mu.Lock()
		cbs := v.mu.fetchers
		v.mu.fetchers, v.mu.fetching = nil, false
		v.fetchUnlock()
		for _, cb := range cbs {
			cb(err)
		}
	}})
}

// errOtherBase says that differences are not those to the map that was named. Then all of it is fetched.
var errOtherBase = errors.New("metaclient: differences to another range map")

// viewOf reads an answer, which may tell only what is otherwise than in base; nil if that is nothing.
func viewOf(base *View, d *pb.DescriptorsResponse) (*View, error) {
	var err error
	view := &View{ClusterID: d.GetClusterId(), Members: pb.ToMembers(d.GetMembers()), Meta: pb.ToDescriptor(d.GetMeta()),
		Version: clusterversion.Version(d.GetClusterVersion()).OrFirst()}
	switch {
	case d.GetBaseVersion() == 0 && len(d.GetRanges()) == 0:
		return nil, nil
	case d.BaseVersion == 0:
		view.Map, err = shard.NewMap(d.Version, pb.ToDescriptors(d.Ranges))
		return view, err
	case base.Map == nil || base.Map.Version() != d.BaseVersion:
		return nil, errOtherBase
	}
	if view.Map, err = base.Map.Update(d.Version, pb.ToDescriptors(d.Ranges), pb.ToRangeIDs(d.Removed)); err != nil {
		return nil, fmt.Errorf("%w: %w", errOtherBase, err)
	}
	if len(d.Members) == 0 {
		view.Members, view.Meta = base.Members, base.Meta
	}
	return view, nil
}

// learn takes in a view, unless it is older than what is known.
func (v *views) learn(base *View, d *pb.DescriptorsResponse) error {
	view, err := viewOf(base, d)
	if view == nil || err != nil {
		return err
	}
	m := view.Map
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.current.Load(); old.Map != nil && old.Map.Version() >= m.Version() {
		return nil
	}
	v.current.Store(view)
	v.calls.learnMeta(view.Meta)
	if v.calls.cfg.Members != nil {
		v.calls.cfg.Members(m.Version(), view.Members)
	}
	close(v.mu.changed)
	v.mu.changed = make(chan struct{})
	return nil
}

// noteVersion fetches the view in the background if an answer speaks of a newer one.
func (v *views) noteVersion(version uint64) {
	if m := v.Map(); version == 0 || m != nil && m.Version() >= version {
		return
	}
	v.RefreshSoon()
}

// RefreshSoon fetches the view in the background, unless a fetch is in flight or about to be: who wants to know of what
// came after that asks again. It does not wait, and a failure is not told.
func (v *views) RefreshSoon() {
	v.mu.Lock()
	if v.mu.closed || v.mu.fetching || len(v.mu.next) > 0 {
		v.mu.Unlock()
		return
	}
	v.mu.next = append(v.mu.next, func(error) {})
	v.fetchUnlock()
}
