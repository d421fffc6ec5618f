package harness

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Series are the metrics of a process at one moment.
type Series map[string]*dto.MetricFamily

// ReadSeries asks a process for its metrics, where it serves clients. via nil: the default client.
func ReadSeries(ctx context.Context, n *Node, via *http.Client) (Series, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.ClientURL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	if via == nil {
		via = http.DefaultClient
	}
	resp, err := via.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	if resp.StatusCode != http.StatusOK {
		return nil, &Refusal{Status: resp.StatusCode, Text: "no metrics"}
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	return p.TextToMetricFamilies(resp.Body)
}

// Value is that of the series with these labels, of a histogram how many values it has seen; an error where there is none.
func (s Series) Value(name string, labels ...string) (float64, error) {
	for _, m := range s[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.Label {
			has[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && has[labels[i]] == labels[i+1]
		}
		if fits {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()), nil
		}
	}
	return 0, fmt.Errorf("no series %s%q", name, labels)
}

// Positive demands that the series with these labels is there and above 0.
func (s Series) Positive(name string, labels ...string) error {
	v, err := s.Value(name, labels...)
	if err == nil && v <= 0 {
		err = fmt.Errorf("%s%q is %v", name, labels, v)
	}
	return err
}
