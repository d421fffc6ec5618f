package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// The users of local servers with authentication. Both have the same password, and the role of the second its name.
const (
	rootUser  = "root"
	benchUser = "bench"
	password  = "secret"
)

// guards are what keeps others out of local servers. Zero: nothing does.
type guards struct {
	tls    *certs.Servers
	client *tls.Config // names nobody; nil: there is no TLS
	users  bool
}

// prepare has servers that are yet to be described be started with what setup asks for.
func (g *guards) prepare(o *harness.Options, setup Setup) (err error) {
	g.users = setup.Permissions > 0
	if setup.TLS {
		if g.tls, err = certs.NewServers(o.Dir, harness.Loopback(), "127.0.0.1"); err != nil {
			return err
		}
		if g.client, err = g.tls.Client(""); err != nil {
			return err
		}
		o.ClientScheme, o.PeerScheme = "https", "https"
	}
	o.Args = slices.Concat(g.args(), o.Args)
	return nil
}

// args are those of every server. Logging in is made cheap: what is measured comes after it.
func (g *guards) args() (args []string) {
	if g.tls != nil {
		args = append(args, g.tls.Args...)
	}
	if g.users {
		args = append(args, "--bcrypt-cost=4")
	}
	return args
}

// login is how clients connect.
func (g *guards) login(cfg *clientv3.Config) {
	cfg.TLS = g.client.Clone()
	if g.users {
		cfg.Username, cfg.Password = benchUser, password
	}
}

// root changes how a client connects that may do anything.
func (g *guards) root(cfg *clientv3.Config) {
	if g.users {
		cfg.Username, cfg.Password = rootUser, password
	}
}

// http asks servers for what they tell of themselves.
func (g *guards) http() *http.Client {
	if g.client == nil {
		return http.DefaultClient
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: g.client.Clone(), DisableKeepAlives: true}}
}

// retryPause lies between two tries of a change of members or users: a new cluster has to settle, and its members have to tell what they speak first.
const retryPause = 100 * time.Millisecond

// retried does something until it succeeds or ctx has ended.
func retried(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait(ctx, retryPause)
	}
}

// enable makes the users and turns authentication on: permissions end and begin at spans, and cover all keys together.
func (g *guards) enable(ctx context.Context, endpoint string, spans []string) error {
	if !g.users {
		return nil
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: g.client.Clone(), DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // nothing can be lost
	steps := []func() error{
		func() error { return told(c.UserAdd(ctx, rootUser, password)) },
		func() error { return told(c.UserGrantRole(ctx, rootUser, rootUser)) },
		func() error { return told(c.UserAdd(ctx, benchUser, password)) },
		func() error { return told(c.RoleAdd(ctx, benchUser)) },
		func() error { return told(c.UserGrantRole(ctx, benchUser, benchUser)) },
	}
	from := "\x00"
	for _, to := range append(slices.Clone(spans), "\x00") { // the last one has no end
		begin := from
		steps = append(steps, func() error {
			return told(c.RoleGrantPermission(ctx, benchUser, begin, to, clientv3.PermissionType(clientv3.PermReadWrite)))
		})
		from = to
	}
	for i, step := range append(steps, func() error { return told(c.AuthEnable(ctx)) }) {
		err := retried(ctx, func() error {
			err := step()
			if errors.Is(err, rpctypes.ErrUserAlreadyExist) || errors.Is(err, rpctypes.ErrRoleAlreadyExist) { // an answer was lost
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("users, step %d: %w", i, err)
		}
	}
	return nil
}

// told is the error of an answer.
func told[T any](_ T, err error) error { return err }
