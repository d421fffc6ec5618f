package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pontoon/internal/exitcode"
)

// transferred is the outcome of a leader transfer, as a node's client port says it.
type transferred struct {
	Range       uint64 `json:"range"`
	Leader      uint64 `json:"leader"`
	Name        string `json:"name"`
	Term        uint64 `json:"term"`
	StoodMicros int64  `json:"stood_us"`
}

// transferRequest is what a node's client port takes.
type transferRequest struct {
	Node      string `json:"node"`
	TimeoutMs int64  `json:"timeout_ms"`
}

func (a *app) leadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lead RANGE NODE",
		Short: "Lets a node lead a range: the present leader hands over, and clients notice nothing",
		Long: "Lets the node that holds a replica of the range lead it. RANGE is an id as `client ranges` shows it, NODE a name or\n" +
			"an id as `client members` does. The present leader lets what is under way end, and hands over when the new\n" +
			"one has its whole log; requests wait for that, and none fails. It returns when the new leader leads. If that\n" +
			"takes too long the old one goes on, and the error says what was in the way.",
		Args: takes(2, 2, "ranges lead needs a range and a node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rangeArg(args[0])
			if err != nil {
				return err
			}
			done := a.progress(cmd.Context(), func() string { return fmt.Sprintf("r%d: waiting for %s to lead", id, args[1]) })
			t, err := a.lead(cmd.Context(), id, args[1])
			done()
			if err != nil {
				return err
			}
			return a.print.cluster.lead(t)
		},
	}
}

// lead asks one endpoint after the other, until one answers.
func (a *app) lead(ctx context.Context, id uint64, node string) (t transferred, err error) {
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	patience := a.flags.commandTimeout * 9 / 10 // so that the node still says what was in the way
	body, err := json.Marshal(transferRequest{Node: node, TimeoutMs: patience.Milliseconds()})
	if err != nil {
		return t, err
	}
	var failed error
	for _, ep := range a.flags.endpoints {
		resp, err := a.do(ctx, http.MethodPost, ep, fmt.Sprintf("%s/%d/leader", rangesPath, id), bytes.NewReader(body))
		if err == nil {
			return readTransferred(resp)
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", ep, err))
	}
	return t, exitcode.With(exitBadConnection, failed)
}

// answerBytesMax bounds what a node answers to a transfer.
const answerBytesMax = 64 << 10

func readTransferred(resp *http.Response) (t transferred, err error) {
	defer func() { _ = resp.Body.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	switch {
	case err != nil:
		return t, err
	case resp.StatusCode == http.StatusNotFound:
		return t, errors.New("the node knows no leader transfer: it runs an older version")
	case resp.StatusCode != http.StatusOK:
		return t, errors.New(strings.TrimSpace(string(b)))
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("the node's answer: %w", err)
	}
	return t, nil
}

// progress says what is waited for, and for how long, on a terminal. What is returned ends that.
func (a *app) progress(ctx context.Context, what func() string) (done func()) {
	if !a.terminal() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for began := time.Now(); a.pause(ctx, time.Second) == nil; {
			fmt.Fprintf(a.err, "\r\033[K%s (%v) ", what(), time.Since(began).Round(time.Second))
		}
		fmt.Fprint(a.err, "\r\033[K")
	}()
	return func() {
		cancel()
		<-ended
	}
}

// terminal reports whether somebody may be looking.
func (a *app) terminal() bool {
	f, ok := a.err.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
