package clusterversion

import (
	"errors"
	"strings"
	"testing"
)

// Every feature can be read by this build, and belongs to a version that exists.
func TestFeatures(t *testing.T) {
	last := First
	names := map[string]bool{}
	for _, f := range Features {
		if f.Since < last || f.Since > Newest || f.Name == "" || names[f.Name] {
			t.Errorf("%+v after version %d, of %d", f, last, Newest)
		}
		last, names[f.Name] = f.Since, true
	}
	if last != Newest {
		t.Errorf("version %d has introduced nothing", Newest)
	}
}

func TestActiveAndJoin(t *testing.T) {
	next := Feature{Name: "of the next version", Since: 2}
	for _, c := range []struct {
		cluster, own  Version
		active, joins bool
	}{
		{0, 0, false, true}, {0, 1, false, true}, {1, 0, false, true}, {1, 1, false, true}, {1, 2, false, true},
		{2, 1, true, false}, {2, 0, true, false}, {2, 2, true, true}, {3, 2, true, false},
	} {
		err := c.own.Join(c.cluster)
		if c.cluster.Active(next) != c.active || !c.cluster.Active(Formats) || (err == nil) != c.joins {
			t.Errorf("cluster %d, own %d: active %v, joins %v", c.cluster, c.own, c.cluster.Active(next), err)
		}
		if err != nil && (!errors.Is(err, ErrTooNew) || !strings.Contains(err.Error(), "version")) {
			t.Errorf("cluster %d, own %d: %v", c.cluster, c.own, err)
		}
	}
}
