package metaclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// settings keeps the newest settings, fetches newer ones as soon as an answer speaks of them, and knows what has been lent. All of it is
// idle where Config.FollowSettings is not set.
type settings struct {
	calls   *caller
	oracle  *oracle
	current atomic.Pointer[placement.Settings]
	loan    atomic.Pointer[placement.Loan]
	heard   atomic.Uint64 // the highest version that is known to be

	whole, differences atomic.Uint64 // answers of which something was taken

	mu struct {
		sync.Mutex
		closed   bool
		fetching bool
		waiting  []settingsWaiter // for a version that is not here
	}
	swap sync.Mutex // one change of current at a time, with who is told of it
	tell []func()   // under swap
}

// settingsWaiter waits until settings of a version are here, or cannot be had.
type settingsWaiter struct {
	version uint64
	cb      func(error)
}

func (s *settings) init(calls *caller, oracle *oracle) {
	s.calls, s.oracle = calls, oracle
	s.current.Store(&placement.Settings{})
	s.loan.Store(&placement.Loan{})
}

// Settings returns the newest known settings, of version 0 before the first answer.
func (s *settings) Settings() *placement.Settings { return s.current.Load() }

// Lent reports whether this node may judge by Settings, as they are when it is called after this, what takes no revision: they
// have been lent and the loan has not ended, or nothing is lent at all to those who are told of changes, and they have been told of none that they lack.
func (s *settings) Lent() bool {
	now := s.current.Load()
	if now.Version == 0 || now.Version < s.heard.Load() && !mutate.On(mutate.HeardUnheeded) {
		return false
	}
	return !s.borrows(now) || s.loan.Load().Valid(s.calls.cfg.Steady(), now.Version)
}

// borrows reports whether what takes no revision is judged by a loan alone.
func (s *settings) borrows(now *placement.Settings) bool { return s.calls.cfg.Untold || now.Lends() }

// BorrowFunc calls cb once, perhaps before it returns, with settings by which the node may judge now. Without a loan the oracle is asked, once
// for all who wait. cb must not block.
func (s *settings) BorrowFunc(cb func(*placement.Settings, error)) {
	if s.Lent() {
		cb(s.current.Load(), nil)
		return
	}
	s.oracle.NowFunc(func(now shard.Now, err error) {
		if err != nil {
			cb(nil, err)
			return
		}
		// In the quorum mode nothing is lent for longer than the answer, which came after the question.
		cb(s.current.Load(), nil)
	})
}

// Borrow is BorrowFunc that waits. The error is that of the oracle.
func (s *settings) Borrow(ctx context.Context) (*placement.Settings, error) {
	return wait(ctx, s.BorrowFunc)
}

// answered takes the news in an answer of the oracle to a question that was asked at the given moment. It reports false where the node is to
// learn newer settings before anything is judged with that answer: then await does.
func (s *settings) answered(now shard.Now, asked time.Time) (known bool) {
	if !s.calls.cfg.FollowSettings {
		return true
	}
	own := s.current.Load().Version
	if now.SettingsVersion == 0 {
		if own == 0 { // a leader of a release that has no settings: they are those that every cluster begins with
			s.replace(placement.NewSettings())
		}
		return true
	}
	if now.Lent > 0 {
		s.lent(asked, now, own)
	}
	return now.SettingsVersion <= own || mutate.On(mutate.NewsUnfetched)
}

func (s *settings) lent(asked time.Time, now shard.Now, own uint64) {
	if mutate.On(mutate.LoanFromAnswer) {
		asked = s.calls.cfg.Steady()
	}
	for {
		old := s.loan.Load()
		next := old.Answered(asked, now.Lent, now.SettingsVersion, own)
		if next == *old || s.loan.CompareAndSwap(old, &next) {
			return
		}
	}
}

// await calls cb once the settings are here of that version or a newer one, or cannot be had. cb must not block.
func (s *settings) await(version uint64, cb func(error)) {
	raise(&s.heard, version)
	if s.current.Load().Version >= version {
		cb(nil)
		return
	}
	s.mu.Lock()
	if s.mu.closed || len(s.mu.waiting) >= queueMax {
		err := shard.ErrUnavailable
		if !s.mu.closed {
			err = shard.ErrTooManyRequests
		}
		s.mu.Unlock()
		cb(err)
		return
	}
	s.mu.waiting = append(s.mu.waiting, settingsWaiter{version, cb})
	fetch := !s.mu.fetching
	s.mu.fetching = true
	s.mu.Unlock()
	if fetch {
		s.fetch()
	}
}

// errOtherSettings says that a difference is not one to the settings by which this node goes. Then all of them are fetched.
var errOtherSettings = errors.New("metaclient: a difference to other settings")

// fetch asks for the settings, and again as long as somebody waits for newer ones than came.
func (s *settings) fetch() { s.fetchBy(true) }

// fetchBy takes the difference to what is known, or all there is.
func (s *settings) fetchBy(difference bool) {
	req := &pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: s.current.Load().Version, Differences: difference}}
	s.calls.call(&attempt{req: req, done: func(resp *pb.PeerResponse, err error) {
		if err == nil {
			err = s.learn(resp)
		}
		if difference && errors.Is(err, errOtherSettings) {
			s.fetchBy(false)
			return
		}
		ready, again := s.ready(err)
		for _, w := range ready {
			w.cb(err)
		}
		if again {
			s.calls.cfg.After(retryPauseMin, s.fetch) // a leader that has been replaced has answered
		}
	}})
}

// ready removes the waiters that are through: all after an error, else those whose version is here. again: others wait.
func (s *settings) ready(err error) (ready []settingsWaiter, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.current.Load().Version
	var kept []settingsWaiter
	for _, w := range s.mu.waiting {
		if err != nil || w.version <= have {
			ready = append(ready, w)
		} else {
			kept = append(kept, w)
		}
	}
	s.mu.waiting, s.mu.fetching = kept, len(kept) > 0
	return ready, len(kept) > 0
}

// learn goes by newer settings from now on, where an answer brings them. Whoever is to be told has been when it returns.
func (s *settings) learn(resp *pb.PeerResponse) error {
	switch {
	case resp.Settings != nil:
		next, err := placement.SettingsFromPB(resp.Settings)
		if err != nil {
			return err
		}
		s.whole.Add(1)
		s.replace(next)
	case resp.SettingsDifference != nil:
		return s.update(resp.SettingsDifference)
	}
	return nil
}

func (s *settings) replace(next *placement.Settings) {
	s.swap.Lock()
	defer s.swap.Unlock()
	s.goBy(next)
}

// update is replace by what a difference leads to. Where another answer has brought settings that are as new, it brings nothing.
func (s *settings) update(d *pb.SettingsDifference) error {
	s.swap.Lock()
	defer s.swap.Unlock()
	now := s.current.Load()
	if d.Version <= now.Version {
		return nil
	}
	next, err := now.Update(d)
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherSettings, err)
	}
	s.differences.Add(1)
	s.goBy(next)
	return nil
}

// goBy swaps, unless next is older. Called with swap held.
func (s *settings) goBy(next *placement.Settings) {
	if next.Version <= s.current.Load().Version {
		return
	}
	s.current.Store(next)
	if s.calls.cfg.SettingsChanged != nil {
		s.calls.cfg.SettingsChanged(next)
	}
	for _, fn := range s.tell {
		fn()
	}
}

// SettingsTaken is how often settings came as all there is, and as a difference.
func (s *settings) SettingsTaken() (whole, differences uint64) {
	return s.whole.Load(), s.differences.Load()
}

// OnSettings has fn called whenever the node goes by newer settings, before that is confirmed to anybody, as Config.SettingsChanged is.
func (s *settings) OnSettings(fn func()) {
	s.swap.Lock()
	defer s.swap.Unlock()
	s.tell = append(s.tell, fn)
}

// Pushed takes the news that there are settings of a version. cb gets the version by which this node goes once nothing begins here any more
// under an older one than that; it must not block.
func (s *settings) Pushed(push *pb.SettingsPush, cb func(*pb.SettingsPush, error)) {
	if mutate.On(mutate.ConfirmEarly) {
		cb(&pb.SettingsPush{Version: push.Version}, nil)
		return
	}
	if !s.calls.cfg.FollowSettings {
		cb(nil, errors.New("metaclient: no settings are followed here"))
		return
	}
	s.await(push.Version, func(err error) {
		if err != nil {
			cb(nil, err)
			return
		}
		s.swap.Lock() // whoever swaps has told all that are to be told
		version := s.current.Load().Version
		s.swap.Unlock()
		cb(&pb.SettingsPush{Version: version}, nil)
	})
}

// followPause is the pause before the leader is asked again that has no newer settings, or could not be asked.
const followPause = 50 * time.Millisecond

// Follow has this process, which nobody calls, wait at the leader of the meta group for newer settings from now on, until Close: so it goes by them soon, and
// the leader knows that it does. It does not block, and is called once.
func (s *settings) Follow() { s.followBy(true) }

// followBy takes the difference to what is known, or all there is.
func (s *settings) followBy(difference bool) {
	if s.calls.ctx.Err() != nil {
		return
	}
	s.swap.Lock() // whoever swaps has told all that are to be told
	known := s.current.Load().Version
	s.swap.Unlock()
	req := &pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: known, Follower: uint64(s.calls.cfg.Self), Differences: difference}}
	s.calls.call(&attempt{req: req, long: true, done: func(resp *pb.PeerResponse, err error) {
		pause, next := followPause, difference
		if err == nil {
			news := resp.Settings != nil || resp.SettingsDifference != nil
			err = s.learn(resp)
			next = !errors.Is(err, errOtherSettings)
			if err == nil && news || difference && !next {
				pause = 0 // what is known now is to be said at once
			}
		}
		s.calls.cfg.After(pause, func() { s.followBy(next) })
	}})
}

// close refuses whoever comes from now on, and returns who waits.
func (s *settings) close() []settingsWaiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.mu.waiting
	s.mu.closed, s.mu.waiting = true, nil
	return waiting
}
