package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type fakePlanner struct {
	mode string
	err  error
}

func (f *fakePlanner) Plan(_ context.Context, mode string) (Plan, error) {
	f.mode = mode
	return Plan{Mode: "on", Acts: "off", Ops: []PlannedOp{{Kind: "move", Rule: "drain", Range: 3, From: "n1", Text: "move r3"}}}, f.err
}

// TestPlan: what would be done is shown for the mode that was asked for, and what the planner refuses is told.
func TestPlan(t *testing.T) {
	f := &fakePlanner{}
	cfg := Config{Plans: f, RequestTimeout: time.Second, Logger: slog.New(slog.DiscardHandler), Gatherer: prometheus.NewRegistry()}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		New(cfg).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	if w := get("/pontoon/v1/plan?mode=on"); w.Code != 200 || f.mode != "on" || !strings.Contains(w.Body.String(), `"rule":"drain","range":3,`) {
		t.Errorf("%d %s, asked for %q", w.Code, w.Body, f.mode)
	}
	if get("/pontoon/v1/plan"); f.mode != "" {
		t.Errorf("asked for %q", f.mode)
	}
	f.err = &StatusError{400, errors.New("the mode of a plan is on, repair or off")}
	if w := get("/pontoon/v1/plan?mode=x"); w.Code != 400 || !strings.Contains(w.Body.String(), "on, repair or off") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	cfg.Plans = nil
	if w := get("/pontoon/v1/plan"); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
