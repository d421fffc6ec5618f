package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"pontoon/internal/exitcode"
)

// Output formats.
const (
	outputSimple = "simple"
	outputJSON   = "json"
	outputTable  = "table"
	outputFields = "fields"
)

var outputFormats = []string{outputFields, outputJSON, outputSimple, outputTable}

// printer writes an answer in the output format that was chosen.
type printer struct {
	out    io.Writer
	format string
	hex    bool
}

// printers turn the answers of the subcommands into what every output format needs.
type printers struct {
	keys    keyPrinter
	leases  leasePrinter
	cluster clusterPrinter
	ops     opsPrinter
	plan    planPrinter
	nodes   nodesPrinter
}

func (a *app) choosePrinter() error {
	if !slices.Contains(outputFormats, a.flags.output) {
		return exitcode.With(exitBadFeature, fmt.Errorf("unsupported output format %q; choose from %s", a.flags.output, strings.Join(outputFormats, ", ")))
	}
	p := printer{out: a.out, format: a.flags.output, hex: a.flags.hex}
	a.print = printers{keys: keyPrinter{p}, leases: leasePrinter{p}, cluster: clusterPrinter{p}, ops: opsPrinter{p}, plan: planPrinter{p}, nodes: nodesPrinter{p}}
	return nil
}

// rendering is one answer in every format. json is marshalled; the others write.
type rendering struct {
	simple func(w io.Writer)
	fields func(w *fieldWriter)
	header []string // of the table
	rows   [][]string
	json   any
}

func (p printer) show(v rendering) error {
	switch p.format {
	case outputJSON:
		b, err := json.Marshal(v.json)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.out, string(b))
		return err
	case outputTable:
		return writeTable(p.out, v.header, v.rows)
	case outputFields:
		w := &fieldWriter{out: p.out, hex: p.hex}
		v.fields(w)
		return w.err
	default:
		w := &errWriter{out: p.out}
		v.simple(w)
		return w.err
	}
}

// errWriter remembers the first error, so that printing code need not look at each.
type errWriter struct {
	out io.Writer
	err error
}

// Write implements io.Writer.
func (w *errWriter) Write(b []byte) (int, error) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
	}
	return len(b), nil
}

func writeTable(out io.Writer, header []string, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(header, "\t")))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// text renders bytes: as they are, or as \x escapes with --hex.
func (p printer) text(b []byte) string {
	if !p.hex {
		return string(b)
	}
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

// bound renders an end of a range, which is open where it is empty.
func (p printer) bound(key []byte, open string) string {
	switch {
	case len(key) == 0:
		return open
	case p.hex:
		return p.text(key)
	default:
		return fmt.Sprintf("%q", key)
	}
}

// cell renders bytes for a table: on one line.
func (p printer) cell(b []byte) string {
	s := p.text(b)
	if strings.ContainsAny(s, "\n\t\r\x00") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// lines prints rows as etcdctl's simple output does.
func lines(w io.Writer, rows [][]string) {
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, ", "))
	}
}

// size renders bytes as etcdctl does: in powers of a thousand.
func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 || f >= 10 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
