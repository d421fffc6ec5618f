package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestJSONLine(t *testing.T) {
	var b bytes.Buffer
	l := slog.New(NewHandler(&b, slog.LevelDebug, false))
	l.With("node", "n1").WithGroup("g").Warn("a \"quoted\" 奥特曼\n", "took", 1500*time.Millisecond, "error", errors.New("boom"))
	line := b.String()
	want := `^\{"level":"warn","ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z","caller":"logging/logging_test\.go:\d+","msg":"a \\"quoted\\" 奥特曼\\n","node":"n1","g":\{"took":"1.5s","error":"boom"\}\}\n$`
	if !regexp.MustCompile(want).MatchString(line) {
		t.Errorf("got %s", line)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Error(err)
	}
}

func TestLineWithoutAttributes(t *testing.T) {
	var b bytes.Buffer
	slog.New(NewHandler(&b, slog.LevelInfo, false)).Info("ready to serve client requests")
	if !strings.HasSuffix(b.String(), `"msg":"ready to serve client requests"}`+"\n") {
		t.Errorf("got %s", b.String())
	}
}

func TestLevels(t *testing.T) {
	var b bytes.Buffer
	l := slog.New(NewHandler(&b, slog.LevelWarn, false))
	l.Debug("d")
	l.Info("i")
	l.Warn("w")
	l.Error("e")
	l.Log(context.Background(), LevelFatal, "f")
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		var m struct{ Level string }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Level)
	}
	if strings.Join(got, " ") != "warn error fatal" {
		t.Errorf("levels %q", got)
	}
}

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	slog.New(NewHandler(&b, slog.LevelInfo, true)).Info("hello", "a", 1)
	if !regexp.MustCompile(`^\S+Z\tinfo\tlogging/logging_test\.go:\d+\thello\t\{"a":1\}\n$`).MatchString(b.String()) {
		t.Errorf("got %q", b.String())
	}
}

func TestOutputs(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	l, err := Open(Config{Level: "info", Outputs: []string{one, two}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			l.Info("line")
		}()
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{one, two} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n != 8 {
			t.Errorf("%s has %d lines", name, n)
		}
	}
	if _, err := Open(Config{Outputs: []string{filepath.Join(dir, "no", "such")}}); err == nil {
		t.Error("opened a file in a directory that does not exist")
	}
	if _, err := Open(Config{Level: "loud"}); err == nil {
		t.Error("accepted level loud")
	}
}
