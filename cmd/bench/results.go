package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/bench/report"
	"pontoon/bench/unit"
	"pontoon/internal/exitcode"
)

func (a *app) reportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "report FILE…",
		Short:   "Make one HTML page, or a Markdown text, of results",
		Long:    "Makes one self-contained page of results: JSON files, or directories of them. A name that ends in .md gets Markdown.",
		GroupID: "results",
		Args:    atLeast(1),
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := readAll(args...)
			if err != nil {
				return err
			}
			if err := writeReport(out, a.out, files); err != nil {
				return err
			}
			if out != "-" {
				fmt.Fprintln(a.err, "report:", out)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "report.html", "where it goes; - is standard output")
	return cmd
}

func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usage("%s needs at least %d argument", cmd.CommandPath(), n)
		}
		return nil
	}
}

// readAll reads results: files, and all of directories.
func readAll(paths ...string) ([]*bench.File, error) {
	var out []*bench.File
	for _, p := range paths {
		names := []string{p}
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			if names, err = filepath.Glob(filepath.Join(p, "*.json")); err != nil {
				return nil, err
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("there are no results in %s", p)
			}
		}
		for _, name := range names {
			f, err := bench.Load(name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, usage("there is no file %s", name)
			}
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// writeReport writes a page, or a text where the name says so.
func writeReport(path string, stdout io.Writer, files []*bench.File) (err error) {
	write := report.HTML
	if strings.HasSuffix(path, ".md") {
		write = report.Markdown
	}
	if path == "-" {
		return write(stdout, files)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f, files), f.Close())
}

const compareLong = `Holds results against older ones of the same workloads and says what got worse: by more than --threshold, and
by more than the runs of each side differ among themselves. Where both sides were measured with --vs the ratios of the
two systems are compared, because a slower machine slows both; --absolute compares the figures themselves.

Exit codes: 0 nothing got worse; 2 wrong usage; 3 new results are not good, or missing; 4 something got worse.`

func (a *app) compareCommand() *cobra.Command {
	var threshold float64
	var absolute, all bool
	cmd := &cobra.Command{
		Use:     "compare OLD NEW",
		Short:   "Say what got worse between two results, or two directories of them",
		Long:    compareLong,
		GroupID: "results",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage("%s needs two arguments, OLD and NEW", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if threshold < 0 {
				return usage("--threshold must not be negative")
			}
			old, err := readAll(args[0])
			if err != nil {
				return err
			}
			now, err := readAll(args[1])
			if err != nil {
				return err
			}
			c, err := bench.Compare(old, now, absolute)
			if err != nil && len(c.Missing) == 0 && len(c.NotGood) == 0 {
				return err
			}
			return a.tell(c, threshold/100, all)
		},
	}
	cmd.Flags().Float64Var(&threshold, "threshold", 10, "percent by which a figure may get worse")
	cmd.Flags().BoolVar(&absolute, "absolute", false, "compare figures even where there are ratios on both sides")
	cmd.Flags().BoolVar(&all, "all", false, "show every figure, not only those that changed by more than --threshold")
	return cmd
}

// tell prints a comparison and turns it into an exit code.
func (a *app) tell(c bench.Comparison, threshold float64, all bool) error {
	worse := c.Regressions(threshold)
	counted := map[bench.Change]bool{}
	for _, ch := range worse {
		counted[ch] = true
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	name := ""
	for _, ch := range c.Changes {
		factor := ch.Worse()
		if !all && factor <= 1+threshold && 1/factor <= 1+threshold {
			continue
		}
		if ch.Name != name {
			name = ch.Name
			fmt.Fprintln(w, name)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s → %s\t%s\n", ch.Of, ch.Figure, amount(ch.Old, ch), amount(ch.New, ch), judgement(ch, counted[ch]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range c.Missing {
		fmt.Fprintln(a.out, "missing in the new results:", m)
	}
	for _, m := range c.NotGood {
		fmt.Fprintln(a.out, "not good in the new results:", m)
	}
	fmt.Fprintf(a.out, "%d figures compared, %d got worse by more than %g %%\n", len(c.Changes), len(worse), threshold*100)
	switch {
	case len(worse) > 0:
		return exitcode.With(exitWorse, fmt.Errorf("%d figures got worse", len(worse)))
	case len(c.Missing) > 0 || len(c.NotGood) > 0:
		return exitcode.With(exitNotGood, errors.New("new results are missing or not good"))
	}
	return nil
}

func amount(v float64, ch bench.Change) string {
	if strings.Contains(ch.Of, "/") {
		return unit.Of(v, "×")
	}
	_, u := unit.Split(ch.Figure)
	return unit.Of(v, strings.TrimSuffix(u, "/op"))
}

func judgement(ch bench.Change, counts bool) string {
	factor := ch.Worse()
	if factor == 1 {
		return "the same"
	}
	if factor < 1 {
		return fmt.Sprintf("better by %s %%", unit.Digits((1/factor-1)*100))
	}
	text := fmt.Sprintf("worse by %s %%", unit.Digits((factor-1)*100))
	switch {
	case counts:
		return "WORSE" + strings.TrimPrefix(text, "worse")
	case ch.Overlap:
		return text + ", within the spread"
	}
	return text + ", not counted"
}
