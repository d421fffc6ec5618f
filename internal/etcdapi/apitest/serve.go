package apitest

import (
	"net"
	"testing"

	"google.golang.org/grpc"

	"pontoon/internal/etcdapi"
)

// Serve serves the API on a loopback port until the test ends, and returns its address.
// change, if not nil, may adapt the configuration; more are further options of its server.
func (s *Store) Serve(t testing.TB, change func(*etcdapi.Config), more ...grpc.ServerOption) (*etcdapi.API, string) {
	t.Helper()
	cfg := s.Config()
	if change != nil {
		change(&cfg)
	}
	api, err := etcdapi.New(cfg)
	if err != nil {
		t.Fatalf("new API: %v", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	srv := grpc.NewServer(append(append(api.ServerOptions(), grpc.WaitForHandlers(true)), more...)...)
	api.Register(srv)
	api.SetServing(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis) // ends with Stop
	}()
	t.Cleanup(func() {
		api.Close()
		srv.Stop()
		<-done
	})
	return api, lis.Addr().String()
}
