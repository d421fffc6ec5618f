package report

import (
	"fmt"
	"io"
	"strings"

	"pontoon/bench"
)

// Markdown writes a short text: what was measured, a table of ratios, and what is not good.
func Markdown(w io.Writer, files []*bench.File) error {
	if len(files) == 0 {
		return fmt.Errorf("there is nothing to report")
	}
	v := newView(sorted(files))
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nMeasured %s.\n\n", v.Title, v.Made)
	for _, f := range v.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", f.Name, f.Value)
	}
	if len(v.Bad) > 0 {
		b.WriteString("\nNot everything went well:\n\n")
		for _, s := range v.Bad {
			fmt.Fprintf(&b, "- %s\n", s)
		}
	}
	if v.Noisy > 0 {
		fmt.Fprintf(&b, "\nThe machine was not quiet: %d of %d results were disturbed by other processes.\n", v.Noisy, len(v.Sections))
	}
	writeOverview(&b, v.Overview)
	for _, s := range v.Sections {
		writeSection(&b, s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeOverview(b *strings.Builder, o overview) {
	if len(o.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Ratios, %s\n\nMedian of the pairs; **bold** where all pairs agree on more than 5 %%, with ↑ for better and ↓ for worse.\n\n", o.Of)
	fmt.Fprintf(b, "| workload | %s | own figures |\n|---|%s---|\n", strings.Join(o.Columns, " | "), strings.Repeat("---|", len(o.Columns)))
	for _, r := range o.Rows {
		cells := []string{r.Label}
		if r.Bad {
			cells[0] += " ⚠"
		}
		for _, c := range r.Cells {
			cells = append(cells, judged(c))
		}
		var own []string
		for _, f := range r.Own {
			own = append(own, f.Figure+" "+judged(f.Cell))
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(append(cells, strings.Join(own, ", ")), " | "))
	}
}

func judged(c cell) string {
	switch {
	case c.Text == "":
		return "–"
	case c.Class == "better":
		return "**" + c.Text + "** ↑"
	case c.Class == "worse":
		return "**" + c.Text + "** ↓"
	}
	return c.Text
}

func writeSection(b *strings.Builder, s section) {
	fmt.Fprintf(b, "\n## %s\n\n`%s`: %s.\n", s.Label, s.Name, s.Runs)
	if s.Disturbed != "" {
		fmt.Fprintf(b, "Disturbed: %s.\n", s.Disturbed)
	}
	if len(s.Rows) == 0 {
		return
	}
	head, rule := "| median", "|---"
	for _, w := range s.Who {
		head, rule = head+" | "+w.Name, rule+"|---"
	}
	fmt.Fprintf(b, "\n%s |\n%s|\n", head, rule)
	for _, r := range s.Rows {
		fmt.Fprintf(b, "| %s", r.Figure)
		for _, c := range r.Cells {
			fmt.Fprintf(b, " | %s", c.Text)
		}
		b.WriteString(" |\n")
	}
}
