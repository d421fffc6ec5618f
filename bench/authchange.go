package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// usersMax bounds the users that are made, which takes two changes each; they have usersRoles roles.
const usersMax, usersRoles = 100_000, 100

var optUsers = Option{
	Name: "users", Usage: fmt.Sprintf("users that there are besides, each with one of %d roles; with endpoints they stay", usersRoles),
	Field: func(s *Spec) any { return &s.Users }, In: func(s Spec) (any, bool) { return s.Users, s.Users > 0 },
}

func authChangeWorkload() Definition {
	defaults := common("auth-change", func(s *Spec) {
		s.Clients, s.Conns, s.KeySpace, s.ValueSize = 65, 16, 10_000, 256
		s.Operations, s.Duration, s.WarmUp = 0, 20*time.Second, 2*time.Second
	})
	return Definition{
		Name:  "auth-change",
		Short: "Changes of what a role may do, beside puts",
		Long: `One of the clients is root and grants a role a permission and revokes it, again and again, while all others put keys. What counts
is the latency of changes: one is acknowledged when every server that is there goes by it. With --permissions the others are judged by what
they may do meanwhile. Afterwards the role must have what was acknowledged last, and every key its latest acknowledged value.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optSequential, optUsers},
		Defaults: defaults,
		Brief:    brief(defaults, func(s *Spec) { s.Users = 5 }),
		Standard: standard(defaults, func(s *Spec) { s.Clients, s.Conns = defaults.Clients, defaults.Conns }),
		check: func(s Spec) error {
			if s.Clients < 2 {
				return fmt.Errorf("--clients is %d, want at least 2: one of them makes the changes", s.Clients)
			}
			if s.Users < 0 || s.Users > usersMax {
				return fmt.Errorf("--users must be between 0 and %d", usersMax)
			}
			return nil
		},
		open: func(e *env) workload { return &authChanges{base: newBase(e)} },
	}
}

// changedRole is the role that is changed, and changedFrom to changedTo what it may write or not.
const changedRole, changedFrom, changedTo = "changed", "changed/", "changed0"

type authChanges struct {
	base
	root    *clientv3.Client
	granted bool // as of what was acknowledged last; of the one who makes changes
}

func (w *authChanges) kinds() []string { return []string{"change", "put"} }

func (w *authChanges) prepare(ctx context.Context) (err error) {
	if w.root, err = w.sys.dial(0, w.sys.guards.root); err != nil {
		return err
	}
	if _, err = w.root.RoleAdd(ctx, changedRole); err != nil {
		return fmt.Errorf("make a role: %w", err)
	}
	return w.others(ctx)
}

// others makes users and roles that nobody is.
func (w *authChanges) others(ctx context.Context) error {
	if w.spec.Users == 0 {
		return nil
	}
	role := func(i int) string { return fmt.Sprintf("%s-%d", changedRole, i%usersRoles) }
	err := forEach(ctx, 32, usersRoles, func(ctx context.Context, _, i int) error {
		if err := told(w.root.RoleAdd(ctx, role(i))); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
			return err
		}
		from := role(i) + "/"
		return told(w.root.RoleGrantPermission(ctx, role(i), from, clientv3.GetPrefixRangeEnd(from), clientv3.PermissionType(clientv3.PermReadWrite)))
	})
	if err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	err = forEach(ctx, 32, w.spec.Users, func(ctx context.Context, _, i int) error {
		name := fmt.Sprintf("%s-%d", changedRole, i)
		err := told(w.root.UserAddWithOptions(ctx, name, "", &clientv3.UserAddOptions{NoPassword: true}))
		if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
			return err
		}
		return told(w.root.UserGrantRole(ctx, name, role(i)))
	})
	if err != nil {
		return fmt.Errorf("make users: %w", err)
	}
	return nil
}

func (w *authChanges) do(ctx context.Context, worker int, seq int64) (int, error) {
	if worker > 0 {
		return 1, w.put(ctx, worker, seq)
	}
	var err error
	if w.granted {
		_, err = w.root.RoleRevokePermission(ctx, changedRole, changedFrom, changedTo)
	} else {
		_, err = w.root.RoleGrantPermission(ctx, changedRole, changedFrom, changedTo, clientv3.PermissionType(clientv3.PermWrite))
	}
	if err == nil {
		w.granted = !w.granted
	}
	return 0, err
}

func (w *authChanges) verify(ctx context.Context) ([]string, error) {
	problems, err := w.base.verify(ctx)
	if err != nil {
		return problems, err
	}
	role, err := w.root.RoleGet(ctx, changedRole)
	if err != nil {
		return problems, fmt.Errorf("read the role: %w", err)
	}
	if has := len(role.Perm) > 0; has != w.granted {
		problems = append(problems, fmt.Sprintf("the role has %v after the last acknowledged change, which granted: %v", role.Perm, w.granted))
	}
	return problems, nil
}

func (w *authChanges) close() error {
	if w.root == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.spec.Timeout)
	defer cancel()
	_, err := w.root.RoleDelete(ctx, changedRole) // endpoints stay
	return errors.Join(err, w.root.Close())
}
