package compactor

import (
	"log/slog"
	"time"
)

// Mode is how a retention is meant. The values are those of etcd's --auto-compaction-mode.
type Mode string

// The modes.
const (
	// Periodic keeps what is younger than a duration.
	Periodic Mode = "periodic"
	// Revisions keeps so many revisions.
	Revisions Mode = "revision"
)

// Plan is what is to be kept. The zero value keeps everything.
type Plan struct {
	Mode Mode
	// Period is what Periodic keeps; 0: all.
	Period time.Duration
	// Count is how many revisions Revisions keeps; 0: all.
	Count int64
}

// Off: nothing is ever compacted.
func (p Plan) Off() bool {
	return p.Mode != Revisions && p.Period <= 0 || p.Mode == Revisions && p.Count <= 0
}

// schedule is when a compaction is due. It has no clock: at its beginning, and behind every pause, it is told what is current.
type schedule interface {
	// name is that of the mode, in log lines.
	name() string
	// pause is the time between two looks.
	pause() time.Duration
	// sample notes what is current. It is told at the beginning, and after every look.
	sample(current int64)
	// due is which revision is to be compacted now, if one is.
	due(now time.Time, current int64) (rev int64, is bool)
	// done notes that rev was compacted.
	done(now time.Time, rev int64)
	// kept is what the log says of the retention.
	kept() slog.Attr
}

func newSchedule(p Plan, now time.Time) schedule {
	if p.Mode == Revisions {
		return &byRevision{keep: p.Count}
	}
	return &byTime{period: p.Period, wait: p.Period, last: now}
}

const (
	// hour bounds the time between two compactions of a longer period.
	hour = time.Hour
	// samplesPerCompaction is how often the revision is looked at between two compactions, and how soon a failed one is tried again.
	samplesPerCompaction = 10
	// revisionPause is the time between two compactions that keep so many revisions.
	revisionPause = 5 * time.Minute
)

// byTime compacts at the revision of a period ago: first when a period has passed, then at the end of each, but every hour at the latest.
type byTime struct {
	period time.Duration
	wait   time.Duration // from one compaction to the next
	last   time.Time     // when it succeeded, or began to wait for the first
	before int64         // the revision of the last
	revs   []int64       // sampled, the oldest first: as many as a period holds, and one
}

func (*byTime) name() string { return "periodic" }

func (s *byTime) interval() time.Duration { return min(s.period, hour) }

func (s *byTime) pause() time.Duration { return s.interval() / samplesPerCompaction }

func (s *byTime) sample(current int64) {
	s.revs = append(s.revs, current)
	if len(s.revs) > int(s.period/s.pause())+1 {
		s.revs = s.revs[1:]
	}
}

func (s *byTime) due(now time.Time, _ int64) (int64, bool) {
	rev := s.revs[0]
	if now.Sub(s.last) < s.wait || rev == s.before {
		return 0, false
	}
	s.wait = s.interval()
	return rev, true
}

func (s *byTime) done(now time.Time, rev int64) { s.last, s.before = now, rev }

func (s *byTime) kept() slog.Attr { return slog.Duration("compact-period", s.period) }

// byRevision compacts at so many revisions below the current one, every five minutes.
type byRevision struct {
	keep   int64
	before int64 // the revision of the last
}

func (*byRevision) name() string { return "revision" }

func (*byRevision) pause() time.Duration { return revisionPause }

func (*byRevision) sample(int64) {}

func (s *byRevision) due(_ time.Time, current int64) (int64, bool) {
	rev := current - s.keep
	return rev, rev > 0 && rev != s.before
}

func (s *byRevision) done(_ time.Time, rev int64) { s.before = rev }

func (s *byRevision) kept() slog.Attr { return slog.Int64("revision-compaction-retention", s.keep) }
