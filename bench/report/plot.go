package report

import (
	"fmt"
	"math"
	"strings"

	"pontoon/bench/unit"
)

// The size of a line chart and of its margins, in the units of its drawing.
const (
	plotWidth, plotHeight                    = 372.0, 232.0
	plotLeft, plotRight, plotTop, plotBottom = 58.0, 14.0, 26.0, 40.0
	dotsMax                                  = 80 // a line with more points has no dots
	shortestLine, pointsMax                  = 2, 400
)

// curve is what a line shows.
type curve struct {
	name   string
	class  string // its colour
	points [][2]float64
	// say writes a point for who asks; nil: x and y with their units.
	say func(x, y float64) string
}

// chart is a chart before it is drawn.
type chart struct {
	title  string
	x, y   axis
	curves []curve
	// marks replace those of the x axis, at values.
	marks map[float64]string
}

// plot is a chart with all places worked out.
type plot struct {
	Title                    string
	Width, Height            float64
	Left, Right, Top, Bottom float64 // of the frame
	XLabel, YLabel           string
	XTicks, YTicks           []tick
	Lines                    []line
	Legend                   []key
}

type line struct {
	Class string
	Path  string
	Dots  []dot
}

type dot struct {
	X, Y  float64
	Title string
}

// key explains a colour.
type key struct{ Class, Name string }

// MidX is the middle of the frame.
func (p plot) MidX() float64 { return (p.Left + p.Right) / 2 }

// draw works out all places; not ok if there is nothing to draw.
func (c chart) draw() (p plot, ok bool) {
	var xs, ys []float64
	for _, cv := range c.curves {
		for _, pt := range cv.points {
			xs, ys = append(xs, pt[0]), append(ys, pt[1])
		}
	}
	if len(xs) < shortestLine {
		return p, false
	}
	p = plot{
		Title: c.title, Width: plotWidth, Height: plotHeight,
		Left: plotLeft, Right: plotWidth - plotRight, Top: plotTop, Bottom: plotHeight - plotBottom,
		XLabel: c.x.label, YLabel: c.y.label,
	}
	var sx, sy scale
	sx, p.XTicks = c.x.fit(xs, p.Left, p.Right)
	sy, p.YTicks = c.y.fit(ys, p.Bottom, p.Top)
	if c.marks != nil {
		sx, p.XTicks = c.marked(xs, p.Left, p.Right)
	}
	seen := map[key]bool{}
	for _, cv := range c.curves {
		p.Lines = append(p.Lines, c.line(cv, sx, sy))
		if k := (key{cv.class, cv.name}); !seen[k] {
			seen[k] = true
			p.Legend = append(p.Legend, k)
		}
	}
	return p, true
}

// marked is an x axis from the lowest to the highest value with marks at given values.
func (c chart) marked(xs []float64, from, to float64) (scale, []tick) {
	s := scale{log: c.x.log, min: math.Inf(1), max: math.Inf(-1), from: from, to: to}
	for _, x := range xs {
		s.min, s.max = min(s.min, x), max(s.max, x)
	}
	var out []tick
	for v, text := range c.marks {
		if v >= s.min && v <= s.max {
			out = append(out, tick{s.at(v), text})
		}
	}
	return s, out
}

func (c chart) line(cv curve, sx, sy scale) line {
	l := line{Class: cv.class}
	var b strings.Builder
	pts := thinned(cv.points)
	for i, pt := range pts {
		if c.y.log && pt[1] <= 0 {
			continue
		}
		x, y := sx.at(pt[0]), sy.at(pt[1])
		cmd := "L"
		if i == 0 || b.Len() == 0 {
			cmd = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", cmd, x, y)
		if len(pts) <= dotsMax {
			l.Dots = append(l.Dots, dot{round(x), round(y), c.tip(cv, pt)})
		}
	}
	l.Path = b.String()
	return l
}

func (c chart) tip(cv curve, pt [2]float64) string {
	if cv.say != nil {
		return cv.name + ": " + cv.say(pt[0], pt[1])
	}
	return fmt.Sprintf("%s: %s at %s", cv.name, unit.Of(pt[1], c.y.unit), unit.Of(pt[0], c.x.unit))
}

// thinned leaves out points of a line that has more of them than can be seen.
func thinned(pts [][2]float64) [][2]float64 {
	if len(pts) <= pointsMax {
		return pts
	}
	var out [][2]float64
	for i := range pointsMax {
		out = append(out, pts[i*(len(pts)-1)/(pointsMax-1)])
	}
	return out
}

func round(v float64) float64 { return math.Round(v*10) / 10 }
