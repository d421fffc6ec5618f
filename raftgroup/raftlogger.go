package raftgroup

import (
	"context"
	"fmt"
	"log/slog"
)

// raftPanic is what Raft's logger panics with when an invariant of one group is broken: the
// group stops, the process goes on.
type raftPanic string

// raftLogger lets Raft speak through slog. What Raft calls info is debug here: with a thousand
// groups, one group's election is no news.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) log(level slog.Level, v []any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, fmt.Sprint(v...))
	}
}

func (r raftLogger) logf(level slog.Level, format string, v []any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}

func (r raftLogger) Debug(...any)             {}
func (r raftLogger) Debugf(string, ...any)    {}
func (r raftLogger) Info(v ...any)            { r.log(slog.LevelDebug, v) }
func (r raftLogger) Warning(v ...any)         { r.log(slog.LevelDebug, v) }
func (r raftLogger) Error(v ...any)           { r.log(slog.LevelError, v) }
func (r raftLogger) Infof(f string, v ...any) { r.logf(slog.LevelDebug, f, v) }
func (r raftLogger) Warningf(f string, v ...any) {
	r.logf(slog.LevelDebug, f, v)
}
func (r raftLogger) Errorf(f string, v ...any) { r.logf(slog.LevelError, f, v) }
func (r raftLogger) Fatal(v ...any)            { panic(raftPanic(fmt.Sprint(v...))) }
func (r raftLogger) Fatalf(f string, v ...any) { panic(raftPanic(fmt.Sprintf(f, v...))) }
func (r raftLogger) Panic(v ...any)            { panic(raftPanic(fmt.Sprint(v...))) }
func (r raftLogger) Panicf(f string, v ...any) { panic(raftPanic(fmt.Sprintf(f, v...))) }
