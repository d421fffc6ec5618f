package tlsport

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// expiry describes the one metric of a port.
func expiry(port string) *prometheus.Desc {
	return prometheus.NewDesc("pontoon_tls_certificate_expiry_seconds",
		"How long the certificate that the port presents is valid yet; negative: it is not.", nil, prometheus.Labels{"port": port})
}

// Describe implements prometheus.Collector.
func (e *Endpoint) Describe(to chan<- *prometheus.Desc) { to <- expiry(e.name) }

// Collect implements prometheus.Collector. It tells nothing of a certificate that cannot be read, of which the log speaks at every handshake.
func (e *Endpoint) Collect(to chan<- prometheus.Metric) {
	if leaf, err := e.leaf(); err == nil {
		to <- prometheus.MustNewConstMetric(expiry(e.name), prometheus.GaugeValue, time.Until(leaf.NotAfter).Seconds())
	}
}
