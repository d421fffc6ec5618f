package tlsport

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are of handshakes that were accepted, by how they have ended.
type counts struct{ done, left, failed atomic.Uint64 }

func (c *counts) handshake(err error) {
	switch {
	case err == nil:
		c.done.Add(1)
	case errors.Is(err, errLeft):
		c.left.Add(1)
	default:
		c.failed.Add(1)
	}
}

// described are the metrics of a port.
func described(port string) (expiry, waiting, handshakes *prometheus.Desc) {
	labels := prometheus.Labels{"port": port}
	return prometheus.NewDesc("pontoon_tls_certificate_expiry_seconds",
			"How long the certificate that the port presents is valid yet; negative: it is not.", nil, labels),
		prometheus.NewDesc("pontoon_tls_handshakes_waiting",
			"Handshakes that wait for a processor: as many are computed at once as half of them.", nil, labels),
		prometheus.NewDesc("pontoon_tls_handshakes_total",
			"Handshakes that clients of the port have begun, by their end: done, failed, or left by a client while it waited.", []string{"end"}, labels)
}

// Describe implements prometheus.Collector.
func (e *Endpoint) Describe(to chan<- *prometheus.Desc) {
	expiry, waiting, handshakes := described(e.name)
	to <- expiry
	to <- waiting
	to <- handshakes
}

// Collect implements prometheus.Collector. It tells nothing of a certificate that cannot be read, of which the log speaks at every handshake.
func (e *Endpoint) Collect(to chan<- prometheus.Metric) {
	expiry, waiting, handshakes := described(e.name)
	if leaf, err := e.leaf(); err == nil {
		to <- prometheus.MustNewConstMetric(expiry, prometheus.GaugeValue, time.Until(leaf.NotAfter).Seconds())
	}
	to <- prometheus.MustNewConstMetric(waiting, prometheus.GaugeValue, float64(e.places.waiting()))
	for end, n := range map[string]*atomic.Uint64{"done": &e.counts.done, "failed": &e.counts.failed, "left": &e.counts.left} {
		to <- prometheus.MustNewConstMetric(handshakes, prometheus.CounterValue, float64(n.Load()), end)
	}
}
