package front

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/link"
)

// heardMax bounds the moments that are remembered: what lags for longer is told to lag for as long as the oldest is ago.
const heardMax = 128

// heard remembers when this process knew of which revision, about once an interval of links: from it comes for how long something has not come that is known
// to be there.
type heard struct {
	mu      sync.Mutex
	moments []moment // the oldest first; revisions rise
}

type moment struct {
	at  time.Time
	rev int64
}

// note remembers that a revision is known, unless a moment ago as much was.
func (h *heard) note(at time.Time, rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.moments); n > 0 {
		if last := h.moments[n-1]; rev <= last.rev || at.Sub(last.at) < link.Interval/2 {
			return
		}
	}
	if len(h.moments) == heardMax {
		h.moments = append(h.moments[:0], h.moments[1:]...)
	}
	h.moments = append(h.moments, moment{at, rev})
}

// since is for how long a revision has been known that is above one.
func (h *heard) since(rev int64, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.moments {
		if m.rev > rev {
			return now.Sub(m.at)
		}
	}
	return 0
}

// flow counts what links have brought of the beginnings and ends of feeds.
type flow struct {
	mu     sync.Mutex
	counts link.Counts
	heard  heard
}

func (f *flow) add(c link.Counts) {
	if c == (link.Counts{}) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.Whole += c.Whole
	f.counts.Gap += c.Gap
	f.counts.Lost += c.Lost
	f.counts.Bytes += c.Bytes
}

func (f *flow) total() link.Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// flowMetrics is a collector of how feeds come.
type flowMetrics struct{ feeds *feeds }

var (
	feedsDesc    = prometheus.NewDesc("pontoon_link_feeds", "Feeds of ranges that come by links, by the node that they come from.", []string{"source"}, nil)
	lagRevsDesc  = prometheus.NewDesc("pontoon_link_lag_revisions", "By how many revisions the feed that is furthest behind of those from a node is behind the newest revision that is known here.", []string{"source"}, nil)
	lagDesc      = prometheus.NewDesc("pontoon_link_lag_seconds", "For how long a revision has been known here that this feed has not come to, to a second and up to two minutes.", []string{"source"}, nil)
	attachedDesc = prometheus.NewDesc("pontoon_link_attached_total", "Feeds that have begun, anew or again: whole, so that nothing is missing since before, or with a gap, upon which watches read what was missed.", []string{"how"}, nil)
	lostDesc     = prometheus.NewDesc("pontoon_link_lost_total", "Feeds of which the other end has dropped what waited, because this one did not take it in time.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m flowMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{feedsDesc, lagRevsDesc, lagDesc, attachedDesc, lostDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m flowMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	f := m.feeds
	f.mu.Lock()
	inlets := make([]*inlet, 0, len(f.inlets))
	for _, in := range f.inlets {
		inlets = append(inlets, in)
	}
	f.mu.Unlock()
	newest, _ := f.backend.Cluster.Newest()
	now := time.Now()
	for _, in := range inlets {
		in.mu.Lock()
		at := in.sink.Position()
		in.mu.Unlock()
		source := in.node.String()
		gauge(feedsDesc, float64(at.Attached), source)
		var revisions, seconds float64
		if at.Attached > 0 {
			revisions, seconds = float64(max(newest-at.Closed, 0)), f.flow.heard.since(at.Closed, now).Seconds()
		}
		gauge(lagRevsDesc, revisions, source)
		gauge(lagDesc, seconds, source)
	}
	counts := f.flow.total()
	counter(attachedDesc, counts.Whole, "whole")
	counter(attachedDesc, counts.Gap, "gap")
	counter(lostDesc, counts.Lost)
}
