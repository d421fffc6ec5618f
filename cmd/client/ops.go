package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"pontoon/internal/exitcode"
)

// opsPath is where a node begins and lists changes of ranges, on its client port.
const opsPath = "/pontoon/v1/ops"

// opsBytesMax bounds their list: some hundred of at most a few kilobytes.
const opsBytesMax = 8 << 20

// opInfo is a change of the ranges as opsPath shows it.
type opInfo struct {
	ID          uint64    `json:"id"`
	Kind        string    `json:"kind"`
	Range       uint64    `json:"range"`
	Generation  uint64    `json:"generation"`
	Key         []byte    `json:"key"`
	KeyText     string    `json:"key_text"`
	Child       uint64    `json:"child"`
	From        string    `json:"from,omitempty"`
	To          string    `json:"to,omitempty"`
	Reason      string    `json:"reason"`
	Outcome     string    `json:"outcome"`
	Waiting     string    `json:"waiting,omitempty"`
	Failure     string    `json:"failure,omitempty"`
	Began       time.Time `json:"began"`
	Ended       time.Time `json:"ended,omitzero"`
	StoodMicros int64     `json:"stood_us"`
}

// The outcomes of an op.
const (
	opUnderWay = "under way"
	opDone     = "done"
)

func (o *opInfo) stood() time.Duration { return time.Duration(o.StoodMicros) * time.Microsecond }

// doing says what is being done to the range.
func (o *opInfo) doing() string {
	switch {
	case o.Kind == "split":
		return fmt.Sprintf("r%d is being split at %q", o.Range, o.Key)
	case o.Kind == "merge":
		return fmt.Sprintf("r%d becomes part of r%d", o.Child, o.Range)
	case o.From == "":
		return fmt.Sprintf("r%d gets a replica on %s", o.Range, o.To)
	case o.To == "":
		return fmt.Sprintf("r%d gives up its replica on %s", o.Range, o.From)
	}
	return fmt.Sprintf("r%d is being moved from %s to %s", o.Range, o.From, o.To)
}

// beginOp is what opsPath takes: one of split, merge and move is set.
type beginOp struct {
	Split     *splitAt  `json:"split,omitempty"`
	Merge     *borderAt `json:"merge,omitempty"`
	Move      *moveOf   `json:"move,omitempty"`
	Reason    string    `json:"reason"`
	TimeoutMs int64     `json:"timeout_ms"`
}

type moveOf struct {
	Range uint64 `json:"range"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// splitAt is where to cut, and whether the border is to stay: for some seconds, or until that is taken back.
type splitAt struct {
	borderAt
	Sticky  bool  `json:"sticky"`
	StickyS int64 `json:"sticky_s,omitempty"`
}

type borderAt struct {
	Key []byte `json:"key"`
}

func (a *app) splitCommand() *cobra.Command {
	sticky, stays := true, time.Duration(0)
	cmd := a.borderCommand("split KEY", "Cuts the range that holds a key in two, at that key",
		"Cuts the range that holds KEY in two: KEY becomes the first key of the right part, a new range. Go's escapes stand for\n"+
			"bytes that cannot be typed, as in m\\x80; borders may be given as `client ranges` shows them, in quotes. The border stays until\n"+
			"`client ranges unstick` takes that back, or for a time with --for; with --sticky=false it is merged away once both parts are small and idle.\n"+opWaits,
		"the key space begins at the empty key, and cannot be cut there: name the first key that the right part is to have",
		func(key []byte) (beginOp, error) {
			if stays < 0 || stays > 0 && (stays < time.Second || !sticky) {
				return beginOp{}, badArgs("--for is how long the border stays: a second at least, and not with --sticky=false")
			}
			return beginOp{Split: &splitAt{borderAt{key}, sticky, int64(stays / time.Second)}}, nil
		})
	cmd.Flags().BoolVar(&sticky, "sticky", sticky, "the border stays: nothing but `client ranges merge` merges it away")
	cmd.Flags().DurationVar(&stays, "for", stays, "for how long it stays (default: until `client ranges unstick`)")
	return cmd
}

func (a *app) mergeCommand() *cobra.Command {
	return a.borderCommand("merge KEY", "Makes the range that begins at a key a part of its left neighbour",
		"Takes the border at KEY away: the range that begins there becomes part of the one to its left, which keeps its id. Both must be on the\n"+
			"same nodes, and small. Borders may be given as `client ranges` shows them, in quotes.\n"+opWaits,
		"the key space begins at the empty key, and there is nothing to the left of it: name the first key of the range that is to go",
		func(key []byte) (beginOp, error) { return beginOp{Merge: &borderAt{key}}, nil })
}

const opWaits = "It returns when that is done, or with --wait=false when it is decided; what becomes of it, `client ops` tells.\n" +
	"Whoever interrupts it only stops waiting: what is decided goes on until it is done or cannot be."

// borderCommand is one that changes the border at a key; none says why the empty key is no border.
func (a *app) borderCommand(use, short, long, none string, what func(key []byte) (beginOp, error)) *cobra.Command {
	wait, reason := true, "by hand"
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(1, 1, "ranges "+strings.Fields(use)[0]+" needs a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := unescape(args[0])
			switch {
			case err != nil:
				return err
			case len(key) == 0:
				return badArgs("%s", none)
			}
			op, err := what(key)
			if err != nil {
				return err
			}
			op.Reason = reason
			return a.carryOut(cmd.Context(), op, wait)
		},
	}
	opFlags(cmd, &wait, &reason)
	return cmd
}

func (a *app) unstickCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unstick KEY",
		Short: "Takes back that a border stays",
		Long: "Takes back that the border at KEY stays, as one does that `client ranges split` has made: the planner merges it away once the\n" +
			"ranges on both sides are small and have been idle for long enough. Borders may be given as `client ranges` shows them, in quotes.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(1, 1, "ranges unstick needs a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := unescape(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			var border stuckInfo
			if err := a.post(ctx, rangesPath+"/unstick", borderAt{key}, &border, "look at `client ranges`"); err != nil {
				return err
			}
			return a.print.ops.unstuck(border)
		},
	}
}

// stuckInfo is a border that need not stay any more.
type stuckInfo struct {
	Key     []byte `json:"key"`
	KeyText string `json:"key_text"`
}

func opFlags(cmd *cobra.Command, wait *bool, reason *string) {
	cmd.Flags().BoolVar(wait, "wait", *wait, "return when it is done, not when it is decided")
	cmd.Flags().StringVar(reason, "reason", *reason, "why, for whoever looks at the ops or the log")
}

func (a *app) moveCommand() *cobra.Command {
	wait, reason := true, "by hand"
	cmd := &cobra.Command{
		Use:   "move RANGE FROM TO",
		Short: "Moves a range's replica from one node to another, while the range goes on",
		Long: "Moves the replica of RANGE on the node FROM to the node TO. RANGE is an id as `client ranges` shows it; FROM and TO are names\n" +
			"or ids as `client members` shows them. A - in the place of FROM gives the range one replica more, and in the place of TO takes one\n" +
			"away. The new replica is sent the range first, then both have a vote, then the old one is removed with its files; requests and\n" +
			"watches go on. It returns when that is done, or with --wait=false when it is decided; what becomes of it, `client ops` tells.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(3, 3, "ranges move needs a range, the node to move it from and the one to move it to"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rangeArg(args[0])
			if err != nil {
				return err
			}
			m := &moveOf{Range: id, From: strings.TrimPrefix(args[1], "-"), To: strings.TrimPrefix(args[2], "-")}
			if m.From == "" && m.To == "" {
				return badArgs("a move from nowhere to nowhere: name a node")
			}
			return a.carryOut(cmd.Context(), beginOp{Move: m, Reason: reason}, wait)
		},
	}
	opFlags(cmd, &wait, &reason)
	return cmd
}

// rangeArg reads a range's id.
func rangeArg(arg string) (uint64, error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(arg, "r"), 10, 64)
	if err != nil {
		return 0, badArgs("%q is no range: want an id such as r2", arg)
	}
	return id, nil
}

// carryOut begins an op, and waits for its end if it is to.
func (a *app) carryOut(ctx context.Context, what beginOp, wait bool) error {
	op, err := a.beginOp(ctx, what)
	if err == nil && wait {
		op, err = a.awaitOp(ctx, op)
	}
	if err != nil {
		return err
	}
	return a.print.ops.begun(op)
}

// unescape reads a key that may hold any byte: Go's escapes stand for what cannot be typed.
func unescape(arg string) ([]byte, error) {
	if !strings.HasPrefix(arg, `"`) && !strings.Contains(arg, `\`) {
		return []byte(arg), nil
	}
	quoted := arg
	if !strings.HasPrefix(arg, `"`) {
		quoted = `"` + strings.ReplaceAll(arg, `"`, `\"`) + `"`
	}
	key, err := strconv.Unquote(quoted)
	if err != nil {
		return nil, badArgs("the key %s: a quotation mark at its beginning, and a backslash, stand for Go's escapes; write \\\" or \\\\ for themselves", arg)
	}
	return []byte(key), nil
}

func (a *app) opsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ops [ID]",
		Short: "Shows the changes of ranges that are under way, and what became of the last",
		Long: "Shows the changes of ranges that are under way and the last that are over, or only the one with that ID: what was asked for\n" +
			"and why, how long ago, what became of it, how long it took, and how long requests to the range had to wait. Of one that does\n" +
			"not get on it shows what is in the way; one that was given up has changed nothing.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(0, 1, "ops takes one id at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, list := opsPath, []opInfo{}
			var into any = &list
			if len(args) == 1 {
				id, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil {
					return badArgs("%q is no op: want an id such as 7", args[0])
				}
				list = make([]opInfo, 1)
				path, into = opPath(id), &list[0]
			}
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			if err := a.ask(ctx, path, into); err != nil {
				return err
			}
			return a.print.ops.list(list)
		},
	}
}

func opPath(id uint64) string { return fmt.Sprintf("%s/%d", opsPath, id) }

// beginOp has a node begin an op.
func (a *app) beginOp(ctx context.Context, what beginOp) (op opInfo, err error) {
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	patience := a.flags.commandTimeout * 9 / 10 // so that the node still says what was in the way
	what.TimeoutMs = patience.Milliseconds()
	err = a.post(ctx, opsPath, what, &op, "look at `client ops`")
	return op, err
}

// post asks one endpoint after the other, until it has reached one. look says where to see what one has done that was reached and has not answered.
func (a *app) post(ctx context.Context, path string, what, into any, look string) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	var failed error
	for _, ep := range a.flags.endpoints {
		resp, err := a.do(ctx, http.MethodPost, ep, path, bytes.NewReader(body))
		if err == nil {
			return readAnswer(resp, into)
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", ep, err))
		if dial := (*net.OpError)(nil); !errors.As(err, &dial) || dial.Op != "dial" {
			failed = fmt.Errorf("%w; it may have begun: %s", failed, look)
			break
		}
	}
	return exitcode.With(exitBadConnection, failed)
}

// ask reads what one endpoint after the other has at a path, until one answers.
func (a *app) ask(ctx context.Context, path string, into any) error {
	var failed error
	for _, ep := range a.flags.endpoints {
		resp, err := a.do(ctx, http.MethodGet, ep, path, nil)
		if err == nil {
			return readAnswer(resp, into)
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", ep, err))
	}
	return exitcode.With(exitBadConnection, failed)
}

// refusal is a node's answer that says what is wrong.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// readAnswer takes a node's answer about ops.
func readAnswer(resp *http.Response, into any) error {
	defer func() { _ = resp.Body.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(resp.Body, opsBytesMax))
	text := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound && text == "404 page not found":
		return errors.New("the node knows no ops: it runs an older version")
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted:
		return &refusal{resp.StatusCode, text}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the node's answer: %w", err)
	}
	return nil
}

// The pause before an op is looked at again grows between these.
const (
	opPauseMin = 20 * time.Millisecond
	opPauseMax = time.Second
)

// awaitOp returns when an op is over. An error says that it was given up, that nobody has told for the command's timeout, or that
// the user does not wait any longer: the op goes on then.
func (a *app) awaitOp(ctx context.Context, op opInfo) (opInfo, error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	began, waiting := op, atomic.Pointer[string]{}
	done := a.progress(ctx, func() string {
		what := fmt.Sprintf("op %d: %s", began.ID, began.doing())
		if why := waiting.Load(); why != nil && *why != "" {
			what += ": " + *why
		}
		return what
	})
	defer done()
	told := time.Now()
	for pause := opPauseMin; op.Outcome == opUnderWay; pause = min(2*pause, opPauseMax) {
		waiting.Store(&op.Waiting)
		if a.pause(ctx, pause) != nil || ctx.Err() != nil {
			return op, exitcode.With(exitInterrupted, fmt.Errorf("op %d goes on; `client ops %d` tells what becomes of it", op.ID, op.ID))
		}
		err := a.look(ctx, &op)
		if err == nil {
			told = time.Now()
			continue
		}
		no := (*refusal)(nil)
		switch {
		case errors.As(err, &no) && no.status == http.StatusNotFound:
			return op, fmt.Errorf("op %d is over, and nobody remembers what became of it: look at `client ranges`", op.ID)
		case time.Since(told) > a.flags.commandTimeout:
			return op, fmt.Errorf("op %d was decided and goes on, but how it stands nobody tells; `client ops %d` may, later: %w", op.ID, op.ID, err)
		}
	}
	if op.Outcome != opDone {
		return op, errors.Join(a.print.ops.givenUp(op), fmt.Errorf("op %d was given up, and r%d is as it was: %s", op.ID, op.Range, op.Failure))
	}
	return op, nil
}

// look reads how it stands with an op.
func (a *app) look(ctx context.Context, op *opInfo) error {
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	var now opInfo
	if err := a.ask(ctx, opPath(op.ID), &now); err != nil {
		return err
	}
	*op = now
	return nil
}
