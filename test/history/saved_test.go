package history

import (
	"os"
	"testing"
)

// TestSaved judges the history in the file that HISTORY_FILE names: one that a run has kept.
func TestSaved(t *testing.T) {
	name := os.Getenv("HISTORY_FILE")
	if name == "" {
		t.Skip("HISTORY_FILE names no history")
	}
	h, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	r := Check(h, Options{AnyExpiry: os.Getenv("HISTORY_EXPIRY") == "any", PartsExpiry: os.Getenv("HISTORY_MULTI") == ""})
	t.Logf("%d answers, %d writes, %d unknown, %d events", r.Ops, r.Writes, r.Unknown, r.Events)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if err := Linearizable(h, Limits{}).Err(); err != nil {
		t.Error(err)
	}
}
