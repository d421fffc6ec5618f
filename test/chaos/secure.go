package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// The users of a cluster that has any. All have the same password.
const (
	rootUser   = "root"
	workerUser = "worker" // may read and write everything
	huntedUser = "alice"  // whose right comes and goes
	password   = "secret"
)

// usersWithin bounds how long it takes until users can be made.
const usersWithin = 20 * time.Second

// security is TLS with certificates of both sides on every port of the nodes, and authentication. nil: there is none.
type security struct {
	args   []string // of every node
	flags  []string // of etcdctl, whose certificate names root
	root   *tls.Config
	hunted *tls.Config // names the user whose right comes and goes
	nobody *tls.Config // names nobody: who has it logs in
}

// newSecurity makes the certificates. addresses are those of all nodes.
func newSecurity(dir string, addresses []string) (*security, error) {
	made, err := certs.NewServers(dir, addresses...)
	if err != nil {
		return nil, err
	}
	s := &security{args: append(made.Args, "--bcrypt-cost=4", "--auth-token-ttl=30")}
	for name, into := range map[string]**tls.Config{rootUser: &s.root, huntedUser: &s.hunted, "": &s.nobody} {
		if *into, err = made.Client(name); err != nil {
			return nil, err
		}
	}
	cert, key, err := made.Issue("etcdctl", certs.Options{CN: rootUser})
	s.flags = []string{"--cacert=" + made.CAFile, "--cert=" + cert, "--key=" + key}
	return s, err
}

// login is how a user connects who has a password.
func (s *security) login(cfg *clientv3.Config, user string) {
	cfg.TLS, cfg.Username, cfg.Password = s.nobody, user, password
}

// users makes the users and turns authentication on. The first change is possible once every member has told of the formats that it speaks.
func (s *site) users(ctx context.Context) error {
	cl, err := s.connect(s.c.Nodes...)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	steps := []func(ctx context.Context) error{
		func(ctx context.Context) error { return told(cl.UserAdd(ctx, rootUser, password)) },
		func(ctx context.Context) error { return told(cl.UserGrantRole(ctx, rootUser, rootUser)) },
		func(ctx context.Context) error { return told(cl.RoleAdd(ctx, workerUser)) },
		func(ctx context.Context) error {
			return told(cl.RoleGrantPermission(ctx, workerUser, "\x00", "\x00", clientv3.PermissionType(clientv3.PermReadWrite)))
		},
		func(ctx context.Context) error { return told(cl.UserAdd(ctx, workerUser, password)) },
		func(ctx context.Context) error { return told(cl.UserGrantRole(ctx, workerUser, workerUser)) },
		func(ctx context.Context) error { return told(cl.UserAdd(ctx, huntedUser, password)) },
		func(ctx context.Context) error { return told(cl.AuthEnable(ctx)) },
	}
	for i, step := range steps {
		err := eventually(ctx, usersWithin, func(ctx context.Context) error {
			err := step(ctx)
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

// connectAs makes a client of a user who logs in.
func (s *site) connectAs(user string, nodes ...*harness.Node) (*clientv3.Client, error) {
	cfg := s.clientConfig(nodes...)
	s.security.login(&cfg, user)
	return clientv3.New(cfg)
}

// etcdctlFlags are what etcdctl needs to be root.
func (s *site) etcdctlFlags() []string {
	if s.security == nil {
		return nil
	}
	return s.security.flags
}
