package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// said is the answer to a command on users and roles: what a person is told, and the message.
type said struct {
	lines   []string
	message any
}

// show prints an answer.
func (p printer) said(s said) error {
	rows := make([][]string, len(s.lines))
	for i, l := range s.lines {
		rows[i] = []string{l}
	}
	return p.show(rendering{
		simple: func(w io.Writer) { lines(w, rows) },
		fields: func(w *fieldWriter) {
			for _, l := range s.lines {
				fmt.Fprintln(w.out, l)
			}
		},
		header: []string{"answer"}, rows: rows, json: s.message,
	})
}

// authCall asks the cluster.
type authCall func(ctx context.Context, c *clientv3.Client, args []string) (said, error)

// authSub is a subcommand on users and roles with so many arguments.
func (a *app) authSub(use, short string, least, most int, call authCall) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: takes(least, most, use+": wrong number of arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				s, err := call(ctx, c, args)
				if err != nil {
					return err
				}
				return printer{out: a.out, format: a.flags.output, hex: a.flags.hex}.said(s)
			})
		},
	}
}

func (a *app) authCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "auth <subcommand>", Short: "Whether users and roles are asked for"}
	cmd.AddCommand(
		a.authSub("enable", "Turns authentication on; there must be a user root with the role root", 0, 0, func(ctx context.Context, c *clientv3.Client, _ []string) (said, error) {
			resp, err := c.AuthEnable(ctx)
			return said{[]string{"Authentication Enabled"}, resp}, err
		}),
		a.authSub("disable", "Turns authentication off, and ends every login", 0, 0, func(ctx context.Context, c *clientv3.Client, _ []string) (said, error) {
			resp, err := c.AuthDisable(ctx)
			return said{[]string{"Authentication Disabled"}, resp}, err
		}),
		a.authSub("status", "Says whether authentication is on", 0, 0, func(ctx context.Context, c *clientv3.Client, _ []string) (said, error) {
			resp, err := c.AuthStatus(ctx)
			if err != nil {
				return said{}, err
			}
			return said{[]string{fmt.Sprintf("Authentication Status: %v", resp.Enabled), fmt.Sprintf("AuthRevision: %v", resp.AuthRevision)}, resp}, nil
		}),
	)
	return cmd
}

// errNoPassword is told where a password is needed and none is given.
var errNoPassword = errors.New("a password is needed: NAME:PASSWORD, --new-user-password, or a line of the standard input with --interactive=false")

// nameAndPassword takes the password of a user from the argument, the flag or the standard input.
func (a *app) nameAndPassword(arg, flag string, read bool) (name, password string, err error) {
	name, password, found := strings.Cut(arg, ":")
	switch {
	case found:
		return name, password, nil
	case flag != "":
		return name, flag, nil
	case !read:
		return "", "", errNoPassword
	}
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && line == "" {
		return "", "", errNoPassword
	}
	return name, strings.TrimRight(line, "\r\n"), nil
}

func (a *app) userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user <subcommand>", Short: "Users: who may log in, and what roles they have"}
	cmd.AddCommand(
		a.userAdd(), a.userPassword(),
		a.authSub("delete <user>", "Deletes a user", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.UserDelete(ctx, args[0])
			return said{[]string{fmt.Sprintf("User %s deleted", args[0])}, resp}, err
		}),
		a.authSub("get <user>", "Shows the roles of a user", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.UserGet(ctx, args[0])
			if err != nil {
				return said{}, err
			}
			return said{[]string{"User: " + args[0], "Roles: " + strings.Join(resp.Roles, " ")}, resp}, nil
		}),
		a.authSub("list", "Lists the users", 0, 0, func(ctx context.Context, c *clientv3.Client, _ []string) (said, error) {
			resp, err := c.UserList(ctx)
			if err != nil {
				return said{}, err
			}
			return said{resp.Users, resp}, nil
		}),
		a.authSub("grant-role <user> <role>", "Gives a user a role", 2, 2, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.UserGrantRole(ctx, args[0], args[1])
			return said{[]string{fmt.Sprintf("Role %s is granted to user %s", args[1], args[0])}, resp}, err
		}),
		a.authSub("revoke-role <user> <role>", "Takes a role from a user", 2, 2, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.UserRevokeRole(ctx, args[0], args[1])
			return said{[]string{fmt.Sprintf("Role %s is revoked from user %s", args[1], args[0])}, resp}, err
		}),
	)
	return cmd
}

func (a *app) userAdd() *cobra.Command {
	var flag string
	var without, interactive bool
	cmd := a.authSub("add <user>[:<password>]", "Adds a user", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
		name, password := args[0], ""
		if !without {
			var err error
			if name, password, err = a.nameAndPassword(args[0], flag, !interactive); err != nil {
				return said{}, err
			}
		}
		resp, err := c.UserAddWithOptions(ctx, name, password, &clientv3.UserAddOptions{NoPassword: without})
		return said{[]string{fmt.Sprintf("User %s created", name)}, resp}, err
	})
	cmd.Flags().StringVar(&flag, "new-user-password", "", "the password")
	cmd.Flags().BoolVar(&without, "no-password", false, "nobody logs in with a password: a certificate names the user")
	cmd.Flags().BoolVar(&interactive, "interactive", true, "false: the password is a line of the standard input")
	return cmd
}

func (a *app) userPassword() *cobra.Command {
	var flag string
	var interactive bool
	cmd := a.authSub("passwd <user>[:<password>]", "Changes a password, and ends the logins with the one before", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
		name, password, err := a.nameAndPassword(args[0], flag, !interactive)
		if err != nil {
			return said{}, err
		}
		resp, err := c.UserChangePassword(ctx, name, password)
		return said{[]string{"Password updated"}, resp}, err
	})
	cmd.Flags().StringVar(&flag, "new-user-password", "", "the password")
	cmd.Flags().BoolVar(&interactive, "interactive", true, "false: the password is a line of the standard input")
	return cmd
}

func (a *app) roleCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "role <subcommand>", Short: "Roles: what their users may read and write"}
	cmd.AddCommand(
		a.roleGrant(), a.roleRevoke(),
		a.authSub("add <role>", "Adds a role", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.RoleAdd(ctx, args[0])
			return said{[]string{fmt.Sprintf("Role %s created", args[0])}, resp}, err
		}),
		a.authSub("delete <role>", "Deletes a role", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.RoleDelete(ctx, args[0])
			return said{[]string{fmt.Sprintf("Role %s deleted", args[0])}, resp}, err
		}),
		a.authSub("list", "Lists the roles", 0, 0, func(ctx context.Context, c *clientv3.Client, _ []string) (said, error) {
			resp, err := c.RoleList(ctx)
			if err != nil {
				return said{}, err
			}
			return said{resp.Roles, resp}, nil
		}),
		a.authSub("get <role>", "Shows what a role allows", 1, 1, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
			resp, err := c.RoleGet(ctx, args[0])
			if err != nil {
				return said{}, err
			}
			out := []string{"Role " + args[0]}
			for _, p := range resp.Perm {
				out = append(out, fmt.Sprintf("%s %s", p.PermType, keysText(p.Key, p.RangeEnd)))
			}
			return said{out, resp}, nil
		}),
	)
	return cmd
}

// keysText shows the keys of a permission.
func keysText(key, end []byte) string {
	switch {
	case len(end) == 0:
		return fmt.Sprintf("%q", key)
	case len(end) == 1 && end[0] == 0:
		return fmt.Sprintf("[%q, <open ended>", key)
	}
	return fmt.Sprintf("[%q, %q)", key, end)
}

// permissionEnd is the end that flags or an argument name.
func permissionEnd(args []string, prefix, fromKey bool) (end string, err error) {
	key := args[0]
	switch {
	case prefix && fromKey, (prefix || fromKey) && len(args) > 1:
		return "", badArgs("--prefix, --from-key and a range end exclude each other")
	case prefix:
		return clientv3.GetPrefixRangeEnd(key), nil
	case fromKey:
		return "\x00", nil
	case len(args) > 1:
		return args[1], nil
	}
	return "", nil
}

func (a *app) roleGrant() *cobra.Command {
	var prefix, fromKey bool
	cmd := a.authSub("grant-permission <role> read|write|readwrite <key> [end]", "Lets a role do something with keys", 3, 4, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
		kind, err := clientv3.StrToPermissionType(args[1])
		if err != nil {
			return said{}, badArgs("%w", err)
		}
		end, err := permissionEnd(args[2:], prefix, fromKey)
		if err != nil {
			return said{}, err
		}
		resp, err := c.RoleGrantPermission(ctx, args[0], args[2], end, kind)
		return said{[]string{fmt.Sprintf("Role %s updated", args[0])}, resp}, err
	})
	cmd.Flags().BoolVar(&prefix, "prefix", false, "all keys that begin with the key")
	cmd.Flags().BoolVar(&fromKey, "from-key", false, "all keys from the key on")
	return cmd
}

func (a *app) roleRevoke() *cobra.Command {
	var prefix, fromKey bool
	cmd := a.authSub("revoke-permission <role> <key> [end]", "Takes from a role what it may do with keys", 2, 3, func(ctx context.Context, c *clientv3.Client, args []string) (said, error) {
		end, err := permissionEnd(args[1:], prefix, fromKey)
		if err != nil {
			return said{}, err
		}
		resp, err := c.RoleRevokePermission(ctx, args[0], args[1], end)
		return said{[]string{fmt.Sprintf("Permission of %s is revoked from role %s", keysText([]byte(args[1]), []byte(end)), args[0])}, resp}, err
	})
	cmd.Flags().BoolVar(&prefix, "prefix", false, "all keys that begin with the key")
	cmd.Flags().BoolVar(&fromKey, "from-key", false, "all keys from the key on")
	return cmd
}

// token logs in, for what is asked by HTTP; empty where no user is named, or authentication is off.
func (a *app) token(ctx context.Context, endpoint string) (string, error) {
	cfg, err := a.config([]string{endpoint})
	if err != nil || cfg.Username == "" {
		return "", err
	}
	name, password := cfg.Username, cfg.Password
	cfg.Username, cfg.Password = "", ""
	c, err := clientv3.New(cfg)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	resp, err := c.Authenticate(ctx, name, password)
	switch {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return "", nil
	case err != nil:
		return "", err
	}
	return resp.Token, nil
}
