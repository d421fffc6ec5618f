package report

import (
	"math"
	"slices"
	"unicode/utf8"

	"pontoon/bench"
	"pontoon/bench/unit"
)

// overview is the table of all ratios.
type overview struct {
	Of      string // what the ratios are, such as "pontoon ÷ etcd"
	Columns []string
	Rows    []overviewRow
}

type overviewRow struct {
	ID, Label string
	Cells     []cell
	Own       []ownRatio // of figures that only this workload has
	Bad       bool
}

type ownRatio struct {
	Figure string
	Cell   cell
}

// main are the figures that every workload has, the most telling first.
var mainFigures = []string{"ops/s", "p50-µs", "p99-µs", "server-cpu-µs/op", "disk-B/op", "peak-anon-B"}

var shortWords = map[string]string{
	"ops/s": "operations/s", "p50-µs": "p50", "p99-µs": "p99", "server-cpu-µs/op": "server CPU/op", "disk-B/op": "disk B/op",
	"peak-anon-B": "memory",
}

// besides are figures that the overview leaves to the sections.
var besides = []string{"p999-µs", "peak-rss-B", "client-cpu-µs/op", "B/s", "objects/s"}

func newOverview(files []*bench.File) overview {
	o := overview{}
	for _, m := range mainFigures {
		o.Columns = append(o.Columns, shortWords[m])
	}
	all := labels(files)
	for i, f := range files {
		names := columns(f.Runs)
		if len(names) != 2 {
			continue
		}
		o.Of = names[0] + " ÷ " + names[1]
		r := overviewRow{ID: sectionID(i), Label: all[i], Bad: !f.Good, Cells: make([]cell, len(mainFigures))}
		for _, ratio := range f.Ratios {
			if at := slices.Index(mainFigures, ratio.Figure); at >= 0 {
				if ratio.Figure == "ops/s" && f.Spec.Rate > 0 {
					r.Cells[at] = cell{Text: "as due", Class: "even"}
					continue
				}
				r.Cells[at] = ratioCell(ratio)
			} else if _, own := f.Runs[0].Figures[ratio.Figure]; own && !slices.Contains(besides, ratio.Figure) {
				r.Own = append(r.Own, ownRatio{words(ratio.Figure), ratioCell(ratio)})
			}
		}
		o.Rows = append(o.Rows, r)
	}
	return o
}

// forest is a chart of ratios: a row per result, a panel per figure.
type forest struct {
	Width, Height, Top, Bottom float64
	Panels                     []panel
	Labels                     []forestLabel
}

type forestLabel struct {
	ID, Text string
	Y        float64
}

type panel struct {
	Title, Hint      string
	Left, Right, One float64
	Ticks            []tick
	Marks            []mark
}

// mark is one ratio: a dot per pair, a line between the outermost, a bar from 1 to the median.
type mark struct {
	Y, Lo, Hi, Mid float64
	Bar, BarWidth  float64
	Dots           []float64
	Class, Title   string
}

// The measures of the chart of ratios.
const (
	forestLetter, forestPanel, forestGap = 6.8, 190.0, 36.0
	forestRow, forestHead, forestFoot    = 22.0, 40.0, 26.0
)

func newForest(files []*bench.File) *forest {
	var rated []*bench.File
	fo := &forest{Top: forestHead}
	all := labels(files)
	for i, f := range files {
		if len(f.Ratios) == 0 {
			continue
		}
		rated = append(rated, f)
		fo.Labels = append(fo.Labels, forestLabel{sectionID(i), all[i], forestHead + forestRow*(float64(len(rated))-0.5)})
	}
	if len(rated) == 0 {
		return nil
	}
	fo.Bottom = forestHead + forestRow*float64(len(rated))
	fo.Height = fo.Bottom + forestFoot
	left := 0.0
	for _, l := range fo.Labels {
		left = max(left, forestLetter*float64(utf8.RuneCountInString(l.Text))+forestGap/2)
	}
	for _, fig := range mainFigures[:4] {
		fo.Panels = append(fo.Panels, newPanel(fig, rated, left))
		left += forestPanel + forestGap
	}
	fo.Width = left
	return fo
}

func newPanel(fig string, files []*bench.File, left float64) panel {
	p := panel{Title: shortWords[fig], Left: left, Right: left + forestPanel}
	reach := 2.0 // the axis goes from 1/reach to reach
	for _, f := range files {
		for _, r := range f.Ratios {
			if r.Figure == fig {
				reach = max(reach, r.Max, 1/r.Min)
			}
		}
	}
	reach = math.Pow(2, math.Ceil(math.Log2(reach)-1e-9))
	s := scale{log: true, min: 1 / reach, max: reach, from: p.Left, to: p.Right}
	p.One = s.at(1)
	step := max(1, math.Ceil(math.Log2(reach)/2))
	for e := -math.Log2(reach); e <= math.Log2(reach)+1e-9; e++ {
		if math.Mod(e, step) == 0 {
			v := math.Pow(2, e)
			p.Ticks = append(p.Ticks, tick{s.at(v), fraction(v)})
		}
	}
	for i, f := range files {
		for _, r := range f.Ratios {
			if r.Figure != fig {
				continue
			}
			p.Hint = "less is better"
			if r.Higher {
				p.Hint = "more is better"
			}
			p.Marks = append(p.Marks, newMark(r, s, forestHead+forestRow*(float64(i)+0.5)))
		}
	}
	return p
}

func newMark(r bench.Ratio, s scale, y float64) mark {
	one, mid := s.at(1), s.at(r.Median)
	m := mark{
		Y: y, Lo: round(s.at(r.Min)), Hi: round(s.at(r.Max)), Mid: round(mid), Class: verdict(r),
		Bar: round(min(one, mid)), BarWidth: round(math.Abs(mid - one)),
		Title: unit.Of(r.Median, "×") + ", pairs " + unit.Digits(r.Min) + " … " + unit.Digits(r.Max),
	}
	for _, v := range r.Pairs {
		m.Dots = append(m.Dots, round(s.at(v)))
	}
	return m
}

func fraction(v float64) string {
	if v < 1 {
		return "1/" + unit.Digits(1/v)
	}
	return unit.Digits(v)
}
