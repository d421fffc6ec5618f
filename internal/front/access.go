package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"pontoon/internal/auth"
	"pontoon/internal/backend"
	"pontoon/internal/etcdapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/placement"
	"pontoon/shard"
)

// AuthConfig is what flags say of who requests come from.
type AuthConfig struct {
	// Token is --auth-token; "" makes and takes none.
	Token string
	// TokenTTL is for how long a sealed token is valid that is not used. Default token.DefaultTTL.
	TokenTTL time.Duration
	// BcryptCost is that of a password's hash.
	BcryptCost int
	// CertificateNames lets the common name of a client's certificate name a user.
	CertificateNames bool
}

// access is the settings of the cluster as the API sees users and roles.
type access struct{ client *metaclient.Client }

var _ etcdapi.Access = access{}

// accessOf is what a backend knows of users and roles.
func accessOf(b *backend.Backend) access { return access{b.Cluster.Client} }

// closed is the view while nothing is known: nobody may do anything.
var closed = auth.Closed()

// View implements etcdapi.Access.
func (a access) View() *auth.View {
	if v := a.client.Settings().Auth; v != nil {
		return v
	}
	return closed
}

// Lent implements etcdapi.Access.
func (a access) Lent() bool { return a.client.Lent() }

// Borrow implements etcdapi.Access.
func (a access) Borrow(ctx context.Context) error { return known(a.client.Borrow(ctx)) }

// BorrowFunc implements etcdapi.Access.
func (a access) BorrowFunc(cb func(error)) {
	a.client.BorrowFunc(func(s *placement.Settings, err error) { cb(known(s, err)) })
}

func known(s *placement.Settings, err error) error {
	if err == nil && s.Auth == nil {
		return shard.ErrUnavailable
	}
	return err
}

// Change implements etcdapi.Access.
func (a access) Change(ctx context.Context, e *pb.MetaAuth) error { return a.client.ChangeAuth(ctx, e) }

// judged fails where a service has a method of which nothing says who may call it.
func judged(s *grpc.Server) error {
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			if method := "/" + service + "/" + m.Name; !etcdapi.Judges(method) {
				return fmt.Errorf("nothing says who may call %s", method)
			}
		}
	}
	return nil
}

// privileged judges requests by HTTP.
type privileged struct {
	access
	tokens *token.Tokens
	names  bool // a certificate's common name names a user
	json   bool
}

// errCommonName is etcd's answer to who may believe that the certificate counts.
var errCommonName = errors.New("CommonName of client sending a request against gateway will be ignored and not used as expected")

// Allow says why a request by HTTP is refused, and with which status; nil if it is not. What shows or changes how the cluster is laid out is root's, once
// authentication is on.
func (p *privileged) Allow(r *http.Request) (status int, err error) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v3/"):
		if p.json && p.names && p.View().Enabled() && r.TLS != nil && token.Certified(r.TLS.VerifiedChains).Name != "" {
			return http.StatusBadRequest, errCommonName
		}
		return 0, nil
	case !strings.HasPrefix(r.URL.Path, "/pontoon/") && !strings.HasPrefix(r.URL.Path, "/debug/"):
		return 0, nil
	}
	if !p.Lent() {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := p.Borrow(ctx); err != nil {
			return http.StatusServiceUnavailable, err
		}
	}
	v := p.View()
	w, err := p.who(r, v)
	if err == nil {
		err = v.Admin(w)
	}
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, shard.ErrPermissionDenied):
		return http.StatusForbidden, err
	}
	return http.StatusUnauthorized, err
}

// who is who makes a request by HTTP: by its header, or by its certificate.
func (p *privileged) who(r *http.Request, v *auth.View) (shard.Who, error) {
	if !v.Enabled() {
		return shard.Who{}, nil
	}
	if h := r.Header.Get("Authorization"); h != "" {
		return p.tokens.Who(metadata.NewIncomingContext(r.Context(), metadata.Pairs("authorization", h)), v)
	}
	if p.names && r.TLS != nil {
		if w := token.Certified(r.TLS.VerifiedChains); w.Name != "" {
			return w, nil
		}
	}
	return shard.Who{}, nil
}
