package underway

import "github.com/prometheus/client_golang/prometheus"

// Register tells what is under way, under the place that it is under way at: "gateway" or "leader".
func (r *Room) Register(reg prometheus.Registerer, at string) {
	labels := prometheus.Labels{"at": at}
	gauge := func(name, help string, fn func() int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(fn()) }))
	}
	gauge("pontoon_requests_under_way", "Requests that have come in and are not answered: at the gateway, those of its clients; at the leader, writes of any node to ranges that this one leads.", r.Count)
	gauge("pontoon_requests_under_way_bytes", "What these take.", r.Bytes)
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pontoon_requests_refused_total", Help: "Requests that found no room, and were refused: too many requests.", ConstLabels: labels},
		func() float64 { return float64(r.Refused()) }))
}

// Register tells what is in, and who waits.
func (l *Lists) Register(reg prometheus.Registerer) {
	gauge := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
	}
	gauge("pontoon_lists_under_way", "Large lists of clients that are put together.", func() float64 {
		in, _, _ := l.Figures()
		return float64(in)
	})
	gauge("pontoon_lists_under_way_bytes", "What these take, and are still expected to.", func() float64 {
		_, bytes, _ := l.Figures()
		return float64(bytes)
	})
	gauge("pontoon_lists_waiting", "Large lists of clients that wait until there is room for them.", func() float64 {
		_, _, waiting := l.Figures()
		return float64(waiting)
	})
}
