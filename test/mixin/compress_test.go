package mixin

import (
	"slices"
	"testing"
)

func TestCompress(t *testing.T) {
	for expr, want := range map[string]string{
		`rate(a[5m])`:                        `rate(a[10s])`,
		`rate(a[120s] offset 10m) > 5`:       `rate(a[4s] offset 20s) > 5`,
		`increase(max(a)[15m:1m]) >= 4`:      `increase(max(a)[30s:2s]) >= 4`,
		`predict_linear(a[4h], 4 * 60 * 60)`: `predict_linear(a[8m], (4 * 60 * 60) / 30)`,
		`changes(a[1d])`:                     `changes(a[48m])`,
		`a offset 1m == 0`:                   `a offset 2s == 0`,
	} {
		got, err := compress(expr)
		if err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", expr, got, err, want)
		}
	}
	if _, err := compress(`rate(`); err == nil {
		t.Error("half an expression is taken")
	}
}

// TestRulesAreWhole: every expression can be parsed, and the rules are as many as the mixin's.
func TestRulesAreWhole(t *testing.T) {
	keys := map[string]bool{}
	for _, a := range alerts {
		if _, err := compress(a.expr); err != nil {
			t.Errorf("%s: %v", a.key(), err)
		}
		keys[a.key()] = true
	}
	if len(keys) != 15 {
		t.Errorf("%d rules", len(keys))
	}
	for _, p := range panels {
		if _, err := compress(p.expr); err != nil {
			t.Errorf("%s: %v", p.title, err)
		}
	}
	e, err := compress(alerts[0].expr)
	if want := []string{`up{job=~".*etcd.*"}`, `etcd_network_peer_sent_failures_total{job=~".*etcd.*"}`}; err != nil || !slices.Equal(selectors(e), want) {
		t.Errorf("%s asks for %q, %v", alerts[0].name, selectors(e), err)
	}
}
