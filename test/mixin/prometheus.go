package mixin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
)

// watcher is a Prometheus: it scrapes nodes, keeps what they say, and evaluates the alerts, all in its own code.
type watcher struct {
	db     *tsdb.DB
	engine *promql.Engine
	scrape *scrape.Manager
	group  *rules.Group
	alerts []alert
	rules  []*rules.AlertingRule // as alerts has them
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		last     time.Time       // of the last round of evaluations that is over
		firing   map[string]bool // keys of alerts
		everyone map[string]int  // how often each has begun to fire
	}
}

// watch starts to scrape some client URLs and to evaluate some alerts. The directory is the watcher's.
func watch(dir string, clientURLs []string, alerts []alert) (_ *watcher, err error) {
	w := &watcher{alerts: alerts}
	w.mu.firing, w.mu.everyone = map[string]bool{}, map[string]int{}
	if w.db, err = tsdb.Open(dir, promslog.NewNopLogger(), nil, tsdb.DefaultOptions(), nil); err != nil {
		return nil, err
	}
	w.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50e6, Timeout: 2 * time.Minute, LookbackDelta: 5 * time.Minute / compression, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() / compression }, Parser: promQL,
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	if err := w.startScrapes(clientURLs); err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := w.loadRules(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	w.wg.Go(func() { w.evaluate(ctx) })
	return w, nil
}

// startScrapes scrapes as Prometheus does by default, whatever formats it negotiates.
func (w *watcher) startScrapes(clientURLs []string) (err error) {
	cfg, err := config.Load(fmt.Sprintf("global: {scrape_interval: %[1]v, scrape_timeout: %[1]v}\nscrape_configs: [{job_name: etcd}]", scrapeEvery), promslog.NewNopLogger())
	if err != nil {
		return err
	}
	w.scrape, err = scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(100 * time.Millisecond)}, promslog.NewNopLogger(), nil, nil, w.db, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	if err := w.scrape.ApplyConfig(cfg); err != nil {
		return err
	}
	group := &targetgroup.Group{Source: "test", Labels: model.LabelSet{"cluster": "pontoon"}}
	for _, u := range clientURLs {
		parsed, err := url.Parse(u)
		if err != nil {
			return err
		}
		group.Targets = append(group.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(parsed.Host)})
	}
	targets := make(chan map[string][]*targetgroup.Group, 1)
	targets <- map[string][]*targetgroup.Group{"etcd": {group}}
	w.wg.Go(func() { _ = w.scrape.Run(targets) })
	return nil
}

// loadRules makes Prometheus' rules of the alerts.
func (w *watcher) loadRules(ctx context.Context) error {
	var all []rules.Rule
	for _, a := range w.alerts {
		e, err := compress(a.expr)
		if err != nil {
			return err
		}
		r := rules.NewAlertingRule(a.name, e, a.hold/compression, 0, labels.FromStrings("severity", a.severity),
			labels.EmptyLabels(), labels.EmptyLabels(), "", true, promslog.NewNopLogger())
		all, w.rules = append(all, r), append(w.rules, r)
	}
	w.group = rules.NewGroup(rules.GroupOptions{Name: "etcd", Interval: scrapeEvery, Rules: all, Opts: &rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(w.engine, w.db), NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Context: ctx, AppendableV2: w.db, Queryable: w.db, Logger: promslog.NewNopLogger(), Registerer: prometheus.NewRegistry(),
	}})
	return nil
}

// evaluate evaluates the rules once per scrape until ctx ends.
func (w *watcher) evaluate(ctx context.Context) {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			w.group.Eval(ctx, now)
			w.note(now)
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) note(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.last = now
	for i, r := range w.rules {
		key, fires := w.alerts[i].key(), r.State() == rules.StateFiring
		if fires && !w.mu.firing[key] {
			w.mu.everyone[key]++
		}
		w.mu.firing[key] = fires
	}
}

// firing returns the alerts that fire, by their keys, and an error of one that could not be evaluated.
func (w *watcher) firing() (map[string]bool, error) {
	for i, r := range w.rules {
		if err := r.LastError(); err != nil {
			return nil, fmt.Errorf("%s: %w", w.alerts[i].key(), err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]bool{}
	for key, fires := range w.mu.firing {
		if fires {
			out[key] = true
		}
	}
	return out, nil
}

// fired is how often each alert has begun to fire.
func (w *watcher) fired() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]int, len(w.mu.everyone))
	for key, n := range w.mu.everyone {
		out[key] = n
	}
	return out
}

// points evaluates an expression, already compressed, at this moment. Nothing, and what is not a number, is an error.
func (w *watcher) points(ctx context.Context, expr string) (promql.Vector, error) {
	q, err := w.engine.NewInstantQuery(ctx, w.db, nil, expr, time.Now())
	if err != nil {
		return nil, err
	}
	defer q.Close()
	v, err := q.Exec(ctx).Vector()
	switch {
	case err != nil:
		return nil, err
	case len(v) == 0:
		return nil, errors.New("no point")
	}
	out := make(promql.Vector, len(v)) // what the query has is gone with it
	copy(out, v)
	for _, s := range out {
		if math.IsNaN(s.F) {
			return nil, fmt.Errorf("%v is not a number", s.Metric)
		}
	}
	return out, nil
}

// close ends the scrapes and evaluations.
func (w *watcher) close() error {
	w.cancel()
	if w.scrape != nil {
		w.scrape.Stop()
	}
	w.wg.Wait()
	return errors.Join(w.engine.Close(), w.db.Close())
}
