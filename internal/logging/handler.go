package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// timeLayout is microseconds in UTC, as etcd writes them.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// sink is the output and the scratch space that all handlers of one logger share.
type sink struct {
	console bool
	level   slog.Level

	mu struct {
		sync.Mutex
		out   io.Writer
		attrs bytes.Buffer // what the standard JSON handler makes of the attributes
		line  bytes.Buffer
	}
}

// attrsWriter is where the standard handler writes; used under the sink's lock only.
type attrsWriter struct{ s *sink }

func (w attrsWriter) Write(p []byte) (int, error) { return w.s.mu.attrs.Write(p) }

// Handler is a slog.Handler that writes etcd's form. The attributes are rendered by the standard
// library's JSON handler.
type Handler struct {
	s     *sink
	attrs slog.Handler
}

// NewHandler returns a handler that writes records of at least that level to out, one call of
// Write each.
func NewHandler(out io.Writer, level slog.Level, console bool) *Handler {
	s := &sink{console: console, level: level}
	s.mu.out = out
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: replaceAttr}
	return &Handler{s: s, attrs: slog.NewJSONHandler(attrsWriter{s}, opts)}
}

// replaceAttr drops what the line's head says already and writes durations as text.
func replaceAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}

// Enabled tells whether a record of that level is written.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.s.level }

// WithAttrs returns a handler that adds these attributes to each line.
func (h *Handler) WithAttrs(as []slog.Attr) slog.Handler {
	return &Handler{s: h.s, attrs: h.attrs.WithAttrs(as)}
}

// WithGroup returns a handler that puts later attributes into an object of that name.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{s: h.s, attrs: h.attrs.WithGroup(name)}
}

// Handle writes one line.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	s := h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.attrs.Reset()
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	attrs := bytes.TrimSuffix(s.mu.attrs.Bytes(), []byte("\n")) // "{…}"
	s.mu.line.Reset()
	if s.console {
		writeConsole(&s.mu.line, r, attrs)
	} else {
		writeJSON(&s.mu.line, r, attrs)
	}
	_, err := s.mu.out.Write(s.mu.line.Bytes())
	return err
}

func writeJSON(b *bytes.Buffer, r slog.Record, attrs []byte) {
	b.WriteString(`{"level":"`)
	b.WriteString(levelName(r.Level))
	b.WriteString(`","ts":"`)
	b.WriteString(stamp(r.Time))
	b.WriteString(`","caller":`)
	writeText(b, caller(r.PC))
	b.WriteString(`,"msg":`)
	writeText(b, r.Message)
	if len(attrs) > len("{}") {
		b.WriteByte(',')
		b.Write(attrs[1:])
	} else {
		b.WriteByte('}')
	}
	b.WriteByte('\n')
}

func writeConsole(b *bytes.Buffer, r slog.Record, attrs []byte) {
	b.WriteString(stamp(r.Time))
	b.WriteByte('\t')
	b.WriteString(levelName(r.Level))
	b.WriteByte('\t')
	b.WriteString(caller(r.PC))
	b.WriteByte('\t')
	b.WriteString(r.Message)
	if len(attrs) > len("{}") {
		b.WriteByte('\t')
		b.Write(attrs)
	}
	b.WriteByte('\n')
}

func stamp(t time.Time) string { return t.UTC().Format(timeLayout) }

// caller is the last directory and file of the line that logged.
func caller(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	dir, file := filepath.Split(f.File)
	return filepath.Base(dir) + "/" + file + ":" + strconv.Itoa(f.Line)
}

// writeText writes a JSON string. Messages are plain almost always.
func writeText(b *bytes.Buffer, s string) {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			writeQuoted(b, s)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(s)
	b.WriteByte('"')
}

func writeQuoted(b *bytes.Buffer, s string) {
	q, err := json.Marshal(s)
	if err != nil { // a string always has a JSON form
		q = []byte(`""`)
	}
	b.Write(q)
}
