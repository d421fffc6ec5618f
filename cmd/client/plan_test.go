package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestPlan shows what would be done and what stands in the way, in every format.
func TestPlan(t *testing.T) {
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		if strings.Contains(asked, "mode=x") {
			http.Error(w, "the mode of a plan is on, repair or off", http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(`{"mode":"on","acts":"repair","age_ms":12,"ops":[
			{"kind":"move","rule":"drain","range":3,"from":"n1","to":"n4","why":"node 1 is to be empty","text":"move r3 from 1 to 4 (drain): node 1 is to be empty"},
			{"kind":"merge","rule":"merge","range":5,"right":6,"why":"small","text":"merge r5 with r6 (merge): small"},
			{"kind":"split","rule":"size","range":4,"why":"large","blocked":"no disk","text":"split r4 in the middle (size): large; not now: no disk"}],
			"nodes":[{"node":1,"name":"n1","state":"up","leaves":"draining","ranges":7,"leads":2,"bytes":4096},{"node":2,"name":"n2","state":"dead","since_s":61}]}`))
	}))
	defer srv.Close()
	s := &session{env: map[string]string{"ETCDCTL_ENDPOINTS": srv.URL}}
	got := s.run(t, "", "plan", "--mode=on")
	want := "mode on, the cluster acts by repair\nn1 is draining: 7 ranges on it, 2 leads, 4.1 kB in use\nn2 is dead, silent for 1m1s\nmove r3 from 1 to 4 (drain): node 1 is to be empty\n" +
		"merge r5 with r6 (merge): small\nsplit r4 in the middle (size): large; not now: no disk\n"
	if got.code != 0 || got.out != want || asked != "/pontoon/v1/plan?mode=on" {
		t.Errorf("%+v, asked %s", got, asked)
	}
	for _, format := range []string{"table", "fields", "json"} {
		if got := s.run(t, "", "plan", "-w", format); got.code != 0 || !strings.Contains(got.out, "no disk") || !strings.Contains(got.out, "drain") {
			t.Errorf("%s: %+v", format, got)
		}
	}
	if got := s.run(t, "", "plan", "--mode=x"); got.code == 0 || !strings.Contains(got.err, "on, repair or off") {
		t.Errorf("%+v", got)
	}
	if got := s.run(t, "", "plan", "now"); got.code != exitBadArgs {
		t.Errorf("%+v", got)
	}
}
