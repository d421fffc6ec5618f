package bench

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func smallLease(change func(*Spec)) Spec {
	return small("lease", func(s *Spec) {
		s.Clients, s.Conns, s.Leases, s.TTL, s.Operations = 4, 2, 50, 5*time.Second, 300
		change(s)
	})
}

func TestLeasesOfAGoodServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, problems := play(t, newServer(), smallLease(func(*Spec) {}))
		if len(problems) > 0 || r.Operations != 300 {
			t.Fatalf("%d operations, %q", r.Operations, problems)
		}
		if r.Figures["grants/s"] < 0 || r.Figures["expiry-lag-max-µs"] < 1 {
			t.Errorf("%v", r.Figures)
		}
	})
}

func TestLeasesNoticeABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		expiresEarly:  "before its time",
		neverExpires:  "50 of 50 leases have not ended",
		forgetsLeases: "has ended",
		losesWrite:    "",
		repeatsEvent:  "has gone twice",
	} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.fault = fault
				_, problems := play(t, s, smallLease(func(*Spec) {}))
				if all := strings.Join(problems, "\n"); len(problems) == 0 || !strings.Contains(all, want) {
					t.Errorf("want %q, got %q", want, problems)
				}
			})
		})
	}
}

func TestLeaseSpecs(t *testing.T) {
	for want, change := range map[string]func(*Spec){
		"--ttl":      func(s *Spec) { s.TTL = 1500 * time.Millisecond },
		"--leases":   func(s *Spec) { s.Leases = 0 },
		"--key-size": func(s *Spec) { s.Leases, s.KeySize = 1001, 3 },
	} {
		if err := smallLease(change).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %s, got %v", want, err)
		}
	}
}
