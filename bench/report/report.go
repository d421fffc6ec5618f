package report

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"pontoon/bench"
	"pontoon/bench/unit"
)

//go:embed page.html plot.html
var sources embed.FS

var page = template.Must(template.New("page.html").ParseFS(sources, "page.html", "plot.html"))

// view is what the page shows.
type view struct {
	Title    string
	Made     string
	Facts    []fact
	Bad      []string // what is not good, before anything else
	Noisy    int      // how many results were disturbed
	Overview overview
	Forest   *forest
	Scaling  []plot
	Sections []section
}

type fact struct{ Name, Value string }

// section is one result.
type section struct {
	ID, Label, Name, Workload string
	Bad                       []string
	Who                       []key // columns of the table
	Rows                      []row
	Plots                     []plot
	Runs, Disturbed           string
}

// row is one figure of all systems.
type row struct {
	Figure string
	Higher bool
	Cells  []cell
	Ratio  cell
}

// cell is a median and the spread around it.
type cell struct{ Text, Spread, Class string }

// HTML writes the page.
func HTML(w io.Writer, files []*bench.File) error {
	if len(files) == 0 {
		return fmt.Errorf("there is nothing to report")
	}
	return page.Execute(w, newView(sorted(files)))
}

func newView(files []*bench.File) view {
	v := view{Title: title(files), Facts: facts(files), Overview: newOverview(files), Forest: newForest(files), Scaling: scaling(files)}
	names := labels(files)
	first, last := files[0].Made, files[0].Made
	for i, f := range files {
		first, last = earlier(first, f.Made), later(last, f.Made)
		s := newSection(f, names[i], i)
		for _, b := range s.Bad {
			v.Bad = append(v.Bad, s.Label+": "+b)
		}
		if s.Disturbed != "" {
			v.Noisy++
		}
		v.Sections = append(v.Sections, s)
	}
	v.Made = first.UTC().Format("2 January 2006, 15:04")
	if !sameMinute(first, last) {
		v.Made += " to " + last.UTC().Format("2 January 2006, 15:04")
	}
	v.Made += " UTC"
	return v
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func sameMinute(a, b time.Time) bool { return a.Truncate(time.Minute).Equal(b.Truncate(time.Minute)) }

// sorted puts results in the order of the list of workloads, and of one workload in that of the
// standard set; the others stay as given, behind those.
func sorted(files []*bench.File) []*bench.File {
	at := map[string]int{}
	for i, d := range bench.Workloads() {
		at[d.Name] = (i + 1) * 1000
		for j, s := range d.Standard {
			at[s.Name()] = j - len(d.Standard)
		}
	}
	place := func(f *bench.File) int { return at[f.Spec.Workload] + at[f.Name] }
	out := slices.Clone(files)
	slices.SortStableFunc(out, func(a, b *bench.File) int { return place(a) - place(b) })
	return out
}

// colour is the class of a system's lines, the same on the whole page.
func colour(name string) string {
	switch name {
	case bench.TargetPontoon:
		return "c0"
	case bench.TargetEtcd:
		return "c1"
	case bench.TargetEndpoints:
		return "c3"
	}
	return "c2"
}

// columns are the systems of some runs, in order of appearance.
func columns(runs []bench.Run) []string {
	var out []string
	for _, r := range runs {
		if !slices.Contains(out, r.System.Who()) {
			out = append(out, r.System.Who())
		}
	}
	return out
}

func title(files []*bench.File) string {
	var all []string
	for _, f := range files {
		for _, name := range columns(f.Runs) {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	if len(all) == 0 {
		return "Nothing was measured"
	}
	return strings.ToUpper(all[0][:1]) + strings.Join(all, " beside ")[1:]
}

// facts are what all figures rest on; what differs between results is told as often.
func facts(files []*bench.File) []fact {
	var out []fact
	add := func(name, value string) {
		if value != "" && !slices.Contains(out, fact{name, value}) {
			out = append(out, fact{name, value})
		}
	}
	for _, f := range files {
		m := f.Machine
		add("Machine", fmt.Sprintf("%s, %d cores, %s memory; %s %s; data on %s", m.CPU, m.Cores,
			unit.Bytes(float64(m.Memory)), m.OS, m.Kernel, m.FileSystem))
	}
	for _, f := range files {
		for _, r := range f.Runs {
			s := r.System
			text := s.Version
			if s.Nodes > 0 {
				text += fmt.Sprintf("; nodes: %d", s.Nodes)
			}
			add(r.System.Who(), text)
		}
	}
	for _, f := range files {
		add("bench", f.Version+", "+f.Machine.Go)
	}
	return out
}

// ranges is into how many the keys of a result were cut; 0: not known.
func ranges(f *bench.File) int {
	for _, r := range f.Runs {
		if r.System.Ranges > 0 {
			return r.System.Ranges
		}
	}
	return 0
}
