package main

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// planPath is where a node tells what the planner would do, on its client port.
const planPath = "/pontoon/v1/plan"

// planInfo is the plan as planPath shows it.
type planInfo struct {
	Mode      string        `json:"mode"`
	Acts      string        `json:"acts"`
	AgeMillis int64         `json:"age_ms"`
	Ops       []plannedInfo `json:"ops"`
	Nodes     []planNode    `json:"nodes"`
}

type plannedInfo struct {
	Kind       string `json:"kind"`
	Rule       string `json:"rule"`
	Range      uint64 `json:"range"`
	Generation uint64 `json:"generation"`
	Right      uint64 `json:"right,omitempty"`
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
	Leader     string `json:"leader,omitempty"`
	Key        []byte `json:"key,omitempty"`
	KeyText    string `json:"key_text,omitempty"`
	Why        string `json:"why"`
	Blocked    string `json:"blocked,omitempty"`
	Text       string `json:"text"`
}

type planNode struct {
	Node         uint64 `json:"node"`
	Name         string `json:"name"`
	State        string `json:"state"`
	SinceSeconds int64  `json:"since_s"`
	Leaves       string `json:"leaves,omitempty"`
	Ranges       int64  `json:"ranges"`
	Leads        int64  `json:"leads"`
	Bytes        int64  `json:"bytes"`
}

func (a *app) planCommand() *cobra.Command {
	mode := ""
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Shows what the cluster would do by itself now, why, and what stands in the way",
		Long: "Shows the ops that the planner would begin now, each with its reason, and those that are due and may not begin, with what stands in\n" +
			"the way; and which nodes do not answer, or are to be emptied. Nothing is done by asking. --mode=on shows what a cluster would do that runs\n" +
			"with --placement=repair or off. Ops that are under way, `client ops` shows.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(0, 0, "plan takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := planPath
			if mode != "" {
				path += "?mode=" + url.QueryEscape(mode)
			}
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			var p planInfo
			if err := a.ask(ctx, path, &p); err != nil {
				return err
			}
			return a.print.plan.plan(&p)
		},
	}
	cmd.Flags().StringVar(&mode, "mode", mode, "on, repair or off; empty: the cluster's own")
	return cmd
}

// planPrinter prints plans.
type planPrinter struct{ printer }

var planHeader = []string{"kind", "rule", "range", "from", "to", "why", "in the way"}

func (p planPrinter) plan(plan *planInfo) error {
	v := rendering{json: plan, header: planHeader}
	for i := range plan.Ops {
		op := &plan.Ops[i]
		what := "any"
		if op.Range != 0 {
			what = fmt.Sprintf("r%d", op.Range)
			if op.Right != 0 {
				what += fmt.Sprintf(" with r%d", op.Right)
			}
		}
		v.rows = append(v.rows, []string{op.Kind, op.Rule, what, cmp.Or(op.From, "-"), cmp.Or(op.To, "-"), op.Why, cmp.Or(op.Blocked, "-")})
	}
	v.simple = func(w io.Writer) {
		fmt.Fprintf(w, "mode %s, the cluster acts by %s\n", plan.Mode, plan.Acts)
		for _, n := range plan.Nodes {
			since := time.Duration(n.SinceSeconds) * time.Second
			switch {
			case n.State != "up":
				fmt.Fprintf(w, "%s is %s, silent for %v\n", n.Name, n.State, since)
			case n.Leaves != "":
				fmt.Fprintf(w, "%s is %s: %d ranges on it, %d leads, %s in use\n", n.Name, n.Leaves, n.Ranges, n.Leads, size(n.Bytes))
			}
		}
		if len(plan.Ops) == 0 {
			fmt.Fprintln(w, "nothing is due")
		}
		for i := range plan.Ops {
			fmt.Fprintln(w, plan.Ops[i].Text)
		}
	}
	v.fields = func(w *fieldWriter) {
		w.line("%q : %q", "Mode", plan.Mode)
		w.line("%q : %q", "Acts", plan.Acts)
		for i := range plan.Ops {
			op := &plan.Ops[i]
			w.line("%q : %q", "Kind", op.Kind)
			w.line("%q : %q", "Rule", op.Rule)
			w.field("Range", op.Range)
			w.field("Right", op.Right)
			w.line("%q : %q", "From", op.From)
			w.line("%q : %q", "To", op.To)
			w.line("%q : %q", "Key", op.Key)
			w.line("%q : %q", "Why", op.Why)
			w.line("%q : %q", "Blocked", op.Blocked)
			w.line("")
		}
	}
	return p.show(v)
}
