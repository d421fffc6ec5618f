package auth

import (
	"fmt"
	"testing"

	"pontoon/internal/pb"
)

// BenchmarkChange makes a change among ten thousand users, and looks once what one of them may do, as every member does.
func BenchmarkChange(b *testing.B) {
	s := New()
	apply := func(e *pb.MetaAuth) {
		e.Actor = Root
		next, err := s.Apply(e)
		if err != nil {
			b.Fatal(err)
		}
		s = next
	}
	for i := range 100 {
		role := fmt.Sprintf("role-%d", i)
		apply(&pb.MetaAuth{Change: uint32(RoleAdd), Role: role})
		apply(&pb.MetaAuth{Change: uint32(RoleGrantPermission), Role: role, Permission: &pb.AuthPermission{Key: []byte(role), RangeEnd: []byte(role + "0")}})
	}
	for i := range 10_000 {
		name := fmt.Sprintf("user-%d", i)
		apply(&pb.MetaAuth{Change: uint32(UserAdd), User: name, NoPassword: true})
		apply(&pb.MetaAuth{Change: uint32(UserGrantRole), User: name, Role: fmt.Sprintf("role-%d", i%100)})
	}
	apply(&pb.MetaAuth{Change: uint32(UserAdd), User: Root, NoPassword: true})
	apply(&pb.MetaAuth{Change: uint32(UserGrantRole), User: Root, Role: Root})
	apply(&pb.MetaAuth{Change: uint32(Enable)})
	b.Run("member", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			apply(&pb.MetaAuth{Change: uint32(RoleGrantPermission), Role: "role-7", Permission: &pb.AuthPermission{Key: []byte("x"), RangeEnd: []byte{'y' + byte(i%2)}}})
			if err := NewView(s).MayRead(Who{Name: "user-7", Known: true}, []byte("role-7"), nil); err != nil {
				b.Fatal(err)
			}
			apply(&pb.MetaAuth{Change: uint32(RoleRevokePermission), Role: "role-7", Permission: &pb.AuthPermission{Key: []byte("x"), RangeEnd: []byte{'y' + byte(i%2)}}})
		}
	})
	b.Run("image", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := s.Image().MarshalVT(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("follow", func(b *testing.B) { // a role that a user gets and loses, and a node that is told of it
		b.ReportAllocs()
		view := NewView(s)
		for i := range b.N {
			apply(&pb.MetaAuth{Change: uint32(UserGrantRole), User: "user-77", Role: fmt.Sprintf("role-%d", 10+i%2)})
			d := s.Difference(s.Touched())
			raw, err := d.MarshalVT()
			if err != nil {
				b.Fatal(err)
			}
			got := &pb.AuthDifference{}
			if err := got.UnmarshalVT(raw); err != nil {
				b.Fatal(err)
			}
			next, err := view.Update(got)
			if err != nil {
				b.Fatal(err)
			}
			view = NewView(next)
			apply(&pb.MetaAuth{Change: uint32(UserRevokeRole), User: "user-77", Role: fmt.Sprintf("role-%d", 10+i%2)})
			if next, err = view.Update(s.Difference(s.Touched())); err != nil {
				b.Fatal(err)
			}
			view = NewView(next)
		}
	})
	image := s.Image()
	b.Run("restore", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			got, err := Restore(image)
			if err != nil {
				b.Fatal(err)
			}
			NewView(got)
		}
	})
	view := NewView(s)
	b.Run("judge", func(b *testing.B) {
		b.ReportAllocs()
		who := Who{Name: "user-7", Known: true}
		key := []byte("role-7/x")
		for range b.N {
			if view.MayRead(who, key, nil) != nil {
				b.Fatal("it may")
			}
		}
	})
}
