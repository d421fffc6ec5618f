package host

import (
	"testing"

	"pontoon/internal/calls"
)

// TestDispatchServesTheTable: exactly what the table of calls gives to the node itself is served here.
func TestDispatchServesTheTable(t *testing.T) {
	for kind, row := range calls.Table {
		if want := row.At == calls.AtNode; (atNode[kind] != nil) != want {
			t.Errorf("a node serves %q: %v", row.Name, !want)
		}
	}
}
