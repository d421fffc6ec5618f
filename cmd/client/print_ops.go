package main

import (
	"cmp"
	"fmt"
	"io"
	"time"
)

// opsPrinter prints changes of ranges.
type opsPrinter struct{ printer }

func (p opsPrinter) list(list []opInfo) error {
	v := rendering{json: list, header: opsHeader}
	for i := range list {
		v.rows = append(v.rows, p.row(&list[i]))
	}
	v.simple = func(w io.Writer) { lines(w, v.rows) }
	v.fields = func(w *fieldWriter) {
		for i := range list {
			p.fields(w, &list[i])
		}
	}
	return p.show(v)
}

// opsHeader heads what row prints.
var opsHeader = []string{"ID", "kind", "range", "what", "outcome", "age", "took", "stood", "reason", "in the way"}

// what says what an op does, in a column.
func (p opsPrinter) what(op *opInfo) string {
	if op.Kind == "merge" {
		return fmt.Sprintf("with r%d", op.Child)
	}
	if op.Kind == "split" {
		return fmt.Sprintf("r%d from %s on", op.Child, p.bound(op.Key, ""))
	}
	return cmp.Or(op.From, "-") + " to " + cmp.Or(op.To, "-")
}

// begun prints an op that was asked for, and is done or under way.
func (p opsPrinter) begun(op opInfo) error {
	v := p.one(op)
	v.simple = func(w io.Writer) {
		if op.Outcome == opUnderWay {
			fmt.Fprintf(w, "op %d: %s\n", op.ID, op.doing())
			return
		}
		if op.Kind == "merge" {
			fmt.Fprintf(w, "r%d has become part of r%d", op.Child, op.Range)
		} else if op.Kind == "split" {
			fmt.Fprintf(w, "r%d was split: r%d has the keys from %s on", op.Range, op.Child, p.bound(op.Key, ""))
		} else {
			fmt.Fprintf(w, "r%d was moved: %s", op.Range, p.what(&op))
		}
		if op.StoodMicros != 0 { // who was asked again does not know it any more
			fmt.Fprintf(w, "; requests waited for %v", op.stood())
		}
		fmt.Fprintln(w)
	}
	return p.show(v)
}

// unstuck prints a border that need not stay any more.
func (p opsPrinter) unstuck(b stuckInfo) error {
	v := rendering{json: b, header: []string{"border"}, rows: [][]string{{p.bound(b.Key, "")}}}
	v.simple = func(w io.Writer) { fmt.Fprintf(w, "the border at %s need not stay any more\n", p.bound(b.Key, "")) }
	v.fields = func(w *fieldWriter) { w.line("%q : %q", "Key", b.Key) }
	return p.show(v)
}

// givenUp prints one that was given up, for who reads more than errors.
func (p opsPrinter) givenUp(op opInfo) error {
	v := p.one(op)
	v.simple = func(io.Writer) {}
	return p.show(v)
}

func (p opsPrinter) one(op opInfo) rendering {
	return rendering{
		json: op, header: opsHeader,
		rows: [][]string{p.row(&op)}, fields: func(w *fieldWriter) { p.fields(w, &op) },
	}
}

func (p opsPrinter) row(op *opInfo) []string {
	why := op.Waiting
	if op.Failure != "" {
		why = op.Failure
	}
	age := max(time.Since(op.Began), 0)
	took, stood := age, "-"
	if op.Outcome != opUnderWay {
		took = op.Ended.Sub(op.Began)
	}
	if op.StoodMicros != 0 {
		stood = op.stood().String()
	}
	return []string{
		fmt.Sprint(op.ID), op.Kind, fmt.Sprintf("r%d", op.Range), p.what(op), op.Outcome,
		age.Round(time.Second).String(), took.Round(time.Millisecond).String(), stood, op.Reason, why,
	}
}

func (p opsPrinter) fields(w *fieldWriter, op *opInfo) {
	w.field("ID", op.ID)
	w.line("%q : %q", "Kind", op.Kind)
	w.field("Range", op.Range)
	w.field("Generation", op.Generation)
	w.line("%q : %q", "Key", op.Key)
	w.field("Child", op.Child)
	w.line("%q : %q", "From", op.From)
	w.line("%q : %q", "To", op.To)
	w.line("%q : %q", "Reason", op.Reason)
	w.line("%q : %q", "Outcome", op.Outcome)
	w.line("%q : %q", "Waiting", op.Waiting)
	w.line("%q : %q", "Failure", op.Failure)
	w.field("Began", op.Began.Format(time.RFC3339Nano))
	if !op.Ended.IsZero() {
		w.field("Ended", op.Ended.Format(time.RFC3339Nano))
	}
	w.field("StoodMicros", op.StoodMicros)
	w.line("")
}
