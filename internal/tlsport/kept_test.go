package tlsport

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestKept: a text is understood once, and what is broken counts at once and leaves nothing of before behind.
func TestKept(t *testing.T) {
	name := filepath.Join(t.TempDir(), "text")
	understood, changes := 0, 0
	k := &kept[string]{files: []string{name}, changed: func() { changes++ }, parse: func(texts [][]byte) (string, error) {
		understood++
		if string(texts[0]) == "broken" {
			return "half", errors.New("half of a text")
		}
		return string(texts[0]), nil
	}}
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, tt := range []struct {
		text                string
		want                string
		bad                 bool
		understood, changes int
	}{
		{"one", "one", false, 1, 0},
		{"one", "one", false, 1, 0},
		{"two", "two", false, 2, 1},
		{"broken", "", true, 3, 1},
		{"broken", "", true, 4, 1},
		{"two", "two", false, 4, 1},
		{"", "", false, 5, 2},
	} {
		write(tt.text)
		got, err := k.get()
		if got != tt.want || (err != nil) != tt.bad || understood != tt.understood || changes != tt.changes {
			t.Errorf("%d: %q, %v; understood %d times, with %d changes", i, got, err, understood, changes)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if got, err := k.get(); got != "" || !os.IsNotExist(err) {
		t.Errorf("of no file: %q, %v", got, err)
	}
}
