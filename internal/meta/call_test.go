package meta

import (
	"testing"

	"pontoon/internal/calls"
)

// TestServersServeTheTable: exactly what the table of calls gives to the meta group is served.
func TestServersServeTheTable(t *testing.T) {
	for kind, row := range calls.Table {
		kind := calls.Kind(kind)
		if want := row.At == calls.AtMeta && kind != calls.Oracle; (servers[kind] != nil) != want {
			t.Errorf("%q is served: %v", row.Name, !want)
		}
	}
}
