package meta

import (
	"testing"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
)

// addMessage seeds a message, a half of it, and one with a bit changed.
func addMessage(f *testing.F, m interface{ MarshalVT() ([]byte, error) }) {
	b, err := m.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	bad := append([]byte{}, b...)
	if len(bad) > 0 {
		bad[len(bad)/2] ^= 0x40
	}
	f.Add(bad)
}

// FuzzEntry: an entry of the meta group's log stops the replica or is applied; what was made of it
// is a state that can be written and read.
func FuzzEntry(f *testing.F) {
	b := layout(2)
	addMessage(f, &pb.MetaEntry{Term: 6, Bootstrap: b})
	addMessage(f, &pb.MetaEntry{Term: 6, Grant: &pb.MetaGrant{Id: 5, Ttl: 9}})
	addMessage(f, &pb.MetaEntry{Term: 6, Attach: &pb.MetaAttach{Id: 5, Span: &pb.Span{End: []byte("k")}}})
	addMessage(f, &pb.MetaEntry{Term: 6, Revoke: &pb.MetaRevoke{Id: 5}})
	addMessage(f, &pb.MetaEntry{Term: 6, Forget: &pb.MetaForget{Id: 5}})
	addMessage(f, &pb.MetaEntry{Term: 6, Compact: &pb.MetaCompact{Revision: 3}})
	addMessage(f, &pb.MetaEntry{Term: 6, MemberAttrs: &pb.MetaMemberAttrs{Id: 1, Name: "x"}})
	addMessage(f, &pb.MetaEntry{Term: 6, Alarm: &pb.MetaAlarm{MemberId: 1, Alarm: 1, Activate: true}})
	addMessage(f, &pb.MetaEntry{Term: 6, BeginOp: &pb.MetaBeginOp{Op: &pb.MetaOp{Kind: 1, RangeId: 2, Generation: 1, Key: []byte("k")}}})
	addMessage(f, &pb.MetaEntry{Term: 6, EndOp: &pb.MetaEndOp{Id: 1, Ranges: []*pb.Descriptor{{RangeId: 2, Generation: 2, Span: b.Ranges[0].Span}}, Failure: "x"}})
	f.Fuzz(func(t *testing.T, data []byte) {
		o := newOpsEnv(t, 2)
		e := o.env
		e.call(grantReq(5, 60))
		e.ask(splitReq("m"))
		for range 2 {
			e.h.index++
			if e.m.Apply([]raftgroup.Entry{{Index: e.h.index, Term: 6, Data: append([]byte{}, data...)}}) != nil {
				return
			}
			e.settle()
		}
		e.m.mu.Lock()
		raw, err := e.m.state.Image().Marshal()
		e.m.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := state.Restore(raw); err != nil {
			t.Fatalf("the state cannot be read again: %v", err)
		}
	})
}

// FuzzHandle: a call with anything in it is answered once, in time, by a leader.
func FuzzHandle(f *testing.F) {
	for _, req := range []*pb.PeerRequest{
		oracleReq(3), grantReq(7, 9), revokeReq(5), aliveReq(5, 6), attachReq(5, "a", "b"), infoReq(5),
		compactReq(1, true), {LeaseList: &pb.LeaseListRequest{}}, {MetaStatus: &pb.MetaStatusRequest{}},
		{Descriptors: &pb.DescriptorsRequest{KnownVersion: 1}}, {Alarm: &pb.AlarmRequest{Action: 1, MemberId: 4}},
		{MemberAttrs: &pb.MemberAttrsRequest{Id: 1, ClientUrls: []string{"x"}}}, {},
	} {
		addMessage(f, req)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &pb.PeerRequest{}
		if req.UnmarshalVT(data) != nil {
			return
		}
		e := newEnv(t)
		e.lead(6)
		e.call(grantReq(5, 60))
		a := e.ask(req)
		e.until("an answer", a.done)
	})
}
