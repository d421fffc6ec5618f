package metaclient

import (
	"flag"
	"os"
	"testing"
	"time"

	"pontoon/internal/auth"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/placement"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	os.Exit(m.Run())
}

// TestMutants: each rule of what a node takes from the oracle's answers that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.LearnedNames(), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Settings|Push|Loan")
}

// lendingSettings are those of a cluster whose users count.
func lendingSettings(t *testing.T, version uint64) *pb.SettingsState {
	t.Helper()
	s := auth.New()
	for _, e := range []*pb.MetaAuth{
		{Change: uint32(auth.UserAdd), User: auth.Root, NoPassword: true},
		{Change: uint32(auth.RoleAdd), Role: auth.Root},
		{Change: uint32(auth.UserGrantRole), User: auth.Root, Role: auth.Root},
		{Change: uint32(auth.Enable), TokenKey: []byte("key")},
	} {
		var err error
		if s, err = s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return &pb.SettingsState{Version: version, Auth: auth.NewView(s).Image()}
}

// TestALoanCountsFromTheQuestion: by the node's clock, whose question was under way for a while. The leader counts from its answer, which is later; so where
// the leader takes a loan to have ended, it has.
func TestALoanCountsFromTheQuestion(t *testing.T) {
	var g got
	c, f := newClientEnv(t, follows)
	c.Pushed(&pb.SettingsPush{Version: 2}, func(*pb.SettingsPush, error) {})
	f.pop(t).cb(&pb.PeerResponse{Settings: lendingSettings(t, 2)}, nil)
	if c.Lent() {
		t.Fatal("lent by nobody")
	}
	answer := func(version uint64) *pb.PeerResponse {
		r := nowResp(4, 6)
		r.Oracle.SettingsVersion, r.Oracle.LentMs = version, 1000
		return r
	}
	g.current(c)
	call := f.pop(t)
	f.fire(700 * time.Millisecond) // it is under way
	call.cb(answer(2), nil)
	if !c.Lent() {
		t.Error("nothing is lent, 700 ms after the question")
	}
	f.fire(299 * time.Millisecond)
	if !c.Lent() {
		t.Error("nothing is lent, 999 ms after the question")
	}
	f.fire(time.Millisecond)
	if c.Lent() {
		t.Error("lent a second after the question: the leader has taken the loan for over as well")
	}
	asked := 0
	c.BorrowFunc(func(_ *placement.Settings, err error) {
		if asked++; err != nil {
			t.Error(err)
		}
	})
	if asked != 0 || f.waiting() != 1 {
		t.Fatalf("told %d times, %d questions: without a loan the oracle is asked", asked, f.waiting())
	}
	f.pop(t).cb(answer(3), nil) // with news: nothing may be judged by what is known here
	if asked != 0 || c.Lent() {
		t.Errorf("told %d times, lent: %v, before the settings are here of which the answer speaks", asked, c.Lent())
	}
	f.pop(t).cb(&pb.PeerResponse{Settings: lendingSettings(t, 3)}, nil)
	if asked != 1 || !c.Lent() {
		t.Errorf("told %d times, lent: %v", asked, c.Lent())
	}
	late := answer(2) // of a leader that had been replaced
	g.current(c)
	f.fire(time.Second)
	f.pop(t).cb(late, nil)
	if c.Lent() {
		t.Error("an answer that is older than what is known here lends")
	}
}
