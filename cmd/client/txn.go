package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/exitcode"
)

func (a *app) txnCommand() *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use:   "txn [options]",
		Short: "Performs several requests as one transaction",
		Long: `Reads a transaction from standard input: compares, the requests to perform if all
of them hold, and the requests to perform if one does not; one a line, each of the
three lists ended by an empty line.

  mod("key1") > "0"

  put key1 "overwrote-key1"

  put key1 "created-key1"
  put key2 "some extra key"

Targets of compares: c or create, m or mod, ver or version, val or value, lease.
Comparisons: =, !=, <, >. Requests: get, put, del, with their flags.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("txn command does not accept argument")
			}
			prompt := func(s string) {
				if interactive {
					fmt.Fprintln(a.out, s)
				}
			}
			in := bufio.NewReader(a.in)
			prompt("compares:")
			cmps, err := readList(in, parseCompare)
			if err != nil {
				return err
			}
			prompt("success requests (get, put, del):")
			then, err := readList(in, parseOp)
			if err != nil {
				return err
			}
			prompt("failure requests (get, put, del):")
			otherwise, err := readList(in, parseOp)
			if err != nil {
				return err
			}
			return a.withKV(cmd.Context(), func(c *clientv3.Client) error {
				resp, err := c.Txn(cmd.Context()).If(cmps...).Then(then...).Else(otherwise...).Commit()
				if err != nil {
					return err
				}
				return a.print.keys.txn(resp)
			})
		},
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "ask for each list")
	return cmd
}

// readList reads lines up to an empty one. An end of input before it is an error: the rest of
// the transaction may be missing.
func readList[T any](in *bufio.Reader, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, exitcode.With(exitInvalidInput, err)
		}
		if line = strings.TrimSpace(line); line == "" {
			return list, nil
		}
		v, err := parse(line)
		if err != nil {
			return nil, exitcode.With(exitInvalidInput, err)
		}
		list = append(list, v)
	}
}

// parseCompare reads target("key") op "value".
func parseCompare(line string) (clientv3.Cmp, error) {
	malformed := fmt.Errorf("malformed comparison: %s", line)
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return clientv3.Cmp{}, malformed
	}
	var key, op, value string
	if n, err := fmt.Sscanf(rest, "%q) %s %q", &key, &op, &value); err != nil || n != 3 {
		return clientv3.Cmp{}, malformed
	}
	switch op {
	case "=", "!=", "<", ">":
	default:
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown operator %s)", line, op)
	}
	base := 10
	var cmp clientv3.Cmp
	switch target {
	case "val", "value":
		return clientv3.Compare(clientv3.Value(key), op, value), nil
	case "ver", "version":
		cmp = clientv3.Version(key)
	case "c", "create":
		cmp = clientv3.CreateRevision(key)
	case "m", "mod":
		cmp = clientv3.ModRevision(key)
	case "lease":
		cmp, base = clientv3.LeaseValue(key), 16 // as everywhere on the command line
	default:
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown target %s)", line, target)
	}
	n, err := strconv.ParseInt(value, base, 64)
	if err != nil {
		return clientv3.Cmp{}, fmt.Errorf("invalid txn compare request: %s", line)
	}
	return clientv3.Compare(cmp, op, n), nil
}

// parseOp reads one request as it would stand on the command line.
func parseOp(line string) (clientv3.Op, error) {
	invalid := fmt.Errorf("invalid txn request: %s", line)
	words, err := splitWords(line)
	if err != nil || len(words) < 2 {
		return clientv3.Op{}, invalid
	}
	fs := pflag.NewFlagSet(words[0], pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	var op func(args []string) (clientv3.Op, error)
	switch words[0] {
	case "get":
		var f getFlags
		f.bind(fs)
		op = func(args []string) (clientv3.Op, error) {
			key, opts, err := f.op(args)
			return clientv3.OpGet(key, opts...), err
		}
	case "put":
		var f putFlags
		f.bind(fs)
		op = func(args []string) (clientv3.Op, error) {
			key, value, opts, err := f.op(args, strings.NewReader(""))
			return clientv3.OpPut(key, value, opts...), err
		}
	case "del":
		var f delFlags
		f.bind(fs)
		op = func(args []string) (clientv3.Op, error) {
			key, opts, err := f.op(args)
			return clientv3.OpDelete(key, opts...), err
		}
	default:
		return clientv3.Op{}, invalid
	}
	if err := fs.Parse(words[1:]); err != nil {
		return clientv3.Op{}, fmt.Errorf("%w (%w)", invalid, err)
	}
	return op(fs.Args())
}

var errQuote = errors.New("a quote is not closed")

// splitWords cuts a line into words. A word in double quotes may hold Go's escapes, one in
// single quotes is taken as it is.
func splitWords(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" {
			return words, nil
		}
		switch line[0] {
		case '"':
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errQuote
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, err
			}
			words, line = append(words, word), line[len(quoted):]
		case '\'':
			word, rest, ok := strings.Cut(line[1:], "'")
			if !ok {
				return nil, errQuote
			}
			words, line = append(words, word), rest
		default:
			n := strings.IndexAny(line, " \t")
			if n < 0 {
				n = len(line)
			}
			words, line = append(words, line[:n]), line[n:]
		}
	}
}
