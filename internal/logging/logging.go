package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// LevelFatal is above error: the process ends because of what the line says.
const LevelFatal = slog.Level(12)

// Config says what is written where.
type Config struct {
	// Level is the least level that is written: debug, info, warn, error, panic or fatal.
	// Default info.
	Level string
	// Format is json (the default) or console.
	Format string
	// Outputs are "default" and "stderr", "stdout", or files, which are appended to. Default
	// stderr.
	Outputs []string
}

// Logger is a *slog.Logger with the files that it writes to.
type Logger struct {
	*slog.Logger
	files []*os.File
}

// Open opens the outputs and returns a logger to all of them.
func Open(cfg Config) (*Logger, error) {
	level, err := parseLevel(cfg.Level)
	if err != nil {
		return nil, err
	}
	l := &Logger{}
	var ws []io.Writer
	for _, name := range cfg.Outputs {
		w, err := l.openOutput(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("log output %s: %w", name, err), l.Close())
		}
		ws = append(ws, w)
	}
	if len(ws) == 0 {
		ws = append(ws, os.Stderr)
	}
	out := ws[0]
	if len(ws) > 1 {
		out = io.MultiWriter(ws...)
	}
	l.Logger = slog.New(NewHandler(out, level, cfg.Format == "console"))
	return l, nil
}

func (l *Logger) openOutput(name string) (io.Writer, error) {
	switch name {
	case "default", "stderr", "/dev/stderr", "systemd/journal":
		return os.Stderr, nil
	case "stdout", "/dev/stdout":
		return os.Stdout, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l.files = append(l.files, f)
	return f, nil
}

// Close closes the files.
func (l *Logger) Close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func parseLevel(text string) (slog.Level, error) {
	switch text {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "dpanic", "panic", "fatal":
		return LevelFatal, nil
	}
	return 0, fmt.Errorf("unrecognized level: %q", text)
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	case l < LevelFatal:
		return "error"
	}
	return "fatal"
}
