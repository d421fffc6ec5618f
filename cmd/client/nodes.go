package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"pontoon/internal/exitcode"
)

// placementInfo is what is on a node, as its client port shows it.
type placementInfo struct {
	Node     uint64 `json:"node"`
	Name     string `json:"name"`
	State    string `json:"state"`
	Replicas int    `json:"replicas"`
	Leads    *int64 `json:"leads,omitempty"` // nil: nobody has told
	Bytes    *int64 `json:"bytes,omitempty"`
}

// held says what is on the node.
func (p *placementInfo) held() string {
	out := fmt.Sprintf("%d replicas", p.Replicas)
	if p.Leads != nil && p.Bytes != nil {
		out += fmt.Sprintf(", %d of them leading, %s in use", *p.Leads, size(*p.Bytes))
	}
	return out
}

func (a *app) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Empties nodes, and tells what is on them",
		Args:  takes(0, 0, "nodes needs one of drain, undrain and show"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.nodeCommand("show", "Tells whether a node is to be emptied, how many replicas are on it, how many of them lead, and what is in use in them", func(ctx context.Context, node string) (p placementInfo, err error) {
		err = a.ask(ctx, nodePath(node, ""), &p)
		return p, err
	}), a.drainCommand(), a.nodeCommand("undrain", "Lets a node have leaders and replicas again", func(ctx context.Context, node string) (placementInfo, error) {
		return a.mark(ctx, node, "undrain")
	}))
	return cmd
}

func nodePath(node, what string) string {
	path := "/pontoon/v1/nodes/" + url.PathEscape(node)
	if what != "" {
		path += "/" + what
	}
	return path
}

func (a *app) nodeCommand(name, short string, do func(ctx context.Context, node string) (placementInfo, error)) *cobra.Command {
	return &cobra.Command{
		Use:               name + " NODE",
		Short:             short,
		Long:              short + ". NODE is a name or an id as `client members` shows it.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(1, 1, "nodes "+name+" needs a node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			p, err := do(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print.nodes.placement(p)
		},
	}
}

func (a *app) drainCommand() *cobra.Command {
	wait := false
	cmd := a.nodeCommand("drain", "Empties a node: leaders first, then replicas", nil)
	cmd.Long = "Empties a node: its leaders are handed over, and then its replicas are moved, one after the other, where others can take them; it stays a\n" +
		"member. NODE is a name or an id as `client members` shows it. It returns when that is decided, or with --wait when nothing is left on it. Whoever\n" +
		"interrupts it only stops waiting; `client nodes undrain` takes it back. What is in the way, `client plan` shows."
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := a.mark(cmd.Context(), args[0], "drain")
		if err == nil && wait {
			p, err = a.awaitEmpty(cmd.Context(), p)
		}
		if err != nil {
			return err
		}
		return a.print.nodes.placement(p)
	}
	cmd.Flags().BoolVar(&wait, "wait", wait, "return when nothing is left on it")
	return cmd
}

// mark says whether a node is to be emptied.
func (a *app) mark(ctx context.Context, node, what string) (p placementInfo, err error) {
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	err = a.post(ctx, nodePath(node, what), struct{}{}, &p, "look at `client nodes show "+node+"`")
	return p, err
}

// awaitEmpty returns when nothing is left on a node that is to be emptied.
func (a *app) awaitEmpty(ctx context.Context, p placementInfo) (placementInfo, error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	node, left := fmt.Sprintf("%x", p.Node), atomic.Pointer[string]{}
	left.Store(new(p.held()))
	done := a.progress(ctx, func() string { return p.Name + ": " + *left.Load() + " left" })
	defer done()
	told := time.Now()
	for p.Replicas > 0 {
		left.Store(new(p.held()))
		if a.pause(ctx, opPauseMax) != nil || ctx.Err() != nil {
			return p, exitcode.With(exitInterrupted, fmt.Errorf("%s goes on being emptied; `client nodes show %s` tells how far that is", p.Name, p.Name))
		}
		brief, cancel := a.briefly(ctx)
		var now placementInfo
		err := a.ask(brief, nodePath(node, ""), &now)
		cancel()
		no := (*refusal)(nil)
		switch {
		case err == nil && now.State == "present":
			return now, fmt.Errorf("%s is not to be emptied any more: somebody has taken that back", p.Name)
		case err == nil:
			p, told = now, time.Now()
		case errors.As(err, &no) && no.status == http.StatusBadRequest:
			return p, fmt.Errorf("%s is no member any more: %w", p.Name, err)
		case time.Since(told) > a.flags.commandTimeout:
			return p, fmt.Errorf("%s goes on being emptied, but how far that is nobody tells: %w", p.Name, err)
		}
	}
	return p, nil
}

// nodesPrinter prints what is on nodes.
type nodesPrinter struct{ printer }

func (n nodesPrinter) placement(p placementInfo) error {
	leads, bytes := "-", "-"
	if p.Leads != nil && p.Bytes != nil {
		leads, bytes = fmt.Sprint(*p.Leads), size(*p.Bytes)
	}
	v := rendering{json: p, header: []string{"ID", "name", "state", "replicas", "leads", "in use"},
		rows: [][]string{{fmt.Sprintf("%x", p.Node), p.Name, p.State, fmt.Sprint(p.Replicas), leads, bytes}}}
	v.simple = func(w io.Writer) { fmt.Fprintf(w, "%s is %s, with %s\n", p.Name, p.State, p.held()) }
	v.fields = func(w *fieldWriter) {
		w.field("Node", p.Node)
		w.line("%q : %q", "Name", p.Name)
		w.line("%q : %q", "State", p.State)
		w.field("Replicas", p.Replicas)
		if p.Leads != nil && p.Bytes != nil {
			w.field("Leads", *p.Leads)
			w.field("Bytes", *p.Bytes)
		}
	}
	return n.show(v)
}
