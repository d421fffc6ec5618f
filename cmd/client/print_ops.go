package main

import (
	"fmt"
	"io"
	"time"
)

// opsPrinter prints changes of ranges.
type opsPrinter struct{ printer }

func (p opsPrinter) list(list []opInfo) error {
	v := rendering{json: list, header: []string{"ID", "kind", "range", "key", "new range", "outcome", "age", "took", "stood", "reason", "in the way"}}
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

// begun prints an op that was asked for, and is done or under way.
func (p opsPrinter) begun(op opInfo) error {
	v := p.one(op)
	v.simple = func(w io.Writer) {
		if op.Outcome == opUnderWay {
			fmt.Fprintf(w, "op %d: r%d is being split at %s\n", op.ID, op.Range, p.bound(op.Key, ""))
			return
		}
		fmt.Fprintf(w, "r%d was split: r%d has the keys from %s on", op.Range, op.Child, p.bound(op.Key, ""))
		if op.StoodMicros != 0 { // who was asked again does not know it any more
			fmt.Fprintf(w, "; requests waited for %v", op.stood())
		}
		fmt.Fprintln(w)
	}
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
		json: op, header: []string{"ID", "kind", "range", "key", "new range", "outcome", "age", "took", "stood", "reason", "in the way"},
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
		fmt.Sprint(op.ID), op.Kind, fmt.Sprintf("r%d", op.Range), p.bound(op.Key, ""), fmt.Sprintf("r%d", op.Child), op.Outcome,
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
