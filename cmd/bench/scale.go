package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"pontoon/bench"
	"pontoon/bench/unit"
)

// scaleFigures are what is shown over the number of ranges; those that a workload does not have are
// left out.
var scaleFigures = []string{
	"ops/s", "p50-µs", "p99-µs", "server-cpu-µs/op", "disk-B/op", "events/s", "events/cpu-s", "cpu-cores", "anon-in-the-end-B", "peak-anon-B",
}

// printScale writes a row for every number of ranges, with the median of the good runs.
func printScale(out io.Writer, files []*bench.File) error {
	var rows []scaleRow
	has := map[string]bool{}
	for _, f := range files {
		row := scaleRow{values: map[string][]float64{}}
		for _, r := range f.Runs {
			if r.System.Ranges == 0 || !r.Good {
				continue
			}
			row.ranges = r.System.Ranges
			for _, fig := range r.All() {
				row.values[fig.Name] = append(row.values[fig.Name], fig.Value)
				has[fig.Name] = has[fig.Name] || fig.Value != 0
			}
		}
		if row.ranges > 0 {
			rows = append(rows, row)
		}
	}
	fmt.Fprintf(out, "\nover ranges, medians of good runs\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "ranges\t")
	for _, name := range scaleFigures {
		if has[name] {
			fmt.Fprintf(w, "%s\t", name)
		}
	}
	fmt.Fprintln(w)
	for _, row := range rows {
		fmt.Fprintf(w, "%d\t", row.ranges)
		for _, name := range scaleFigures {
			if has[name] {
				_, u := unit.Split(name)
				fmt.Fprintf(w, "%s\t", unit.Of(bench.Median(row.values[name]), u))
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return perRange(out, rows)
}

// scaleRow is one number of ranges.
type scaleRow struct {
	ranges int
	values map[string][]float64
}

// perRange tells what a range more costs in memory and idle CPU, from the fewest to the most.
func perRange(out io.Writer, rows []scaleRow) error {
	if len(rows) < 2 {
		return nil
	}
	few, many := rows[0], rows[0]
	for _, r := range rows {
		if r.ranges < few.ranges {
			few = r
		}
		if r.ranges > many.ranges {
			many = r
		}
	}
	for _, c := range []struct {
		figure, unit string
		factor       float64
	}{{"anon-in-the-end-B", "B", 1}, {"cpu-cores", "µs/s", 1e6}} {
		if len(few.values[c.figure]) == 0 || len(many.values[c.figure]) == 0 || many.ranges == few.ranges {
			continue
		}
		each := (bench.Median(many.values[c.figure]) - bench.Median(few.values[c.figure])) / float64(many.ranges-few.ranges)
		if _, err := fmt.Fprintf(out, "a range more: %s of %s\n", unit.Of(each*c.factor, c.unit), c.figure); err != nil {
			return err
		}
	}
	return nil
}
