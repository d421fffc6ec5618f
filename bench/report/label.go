package report

import (
	"fmt"
	"slices"
	"strings"

	"pontoon/bench"
	"pontoon/bench/unit"
)

// labels names results shortly: by the workload, its load, and what else they do not share with most
// others of it. Where that is not enough to tell them apart they get all that they do not share.
func labels(files []*bench.File) []string {
	out := make([]string, len(files))
	named := map[string]*bench.File{}
	twice := map[string]bool{}
	for i, f := range files {
		out[i] = label(f, files)
		twice[out[i]] = twice[out[i]] || named[out[i]] != nil && named[out[i]] != f
		named[out[i]] = f
	}
	for i, f := range files {
		if twice[out[i]] {
			out[i] = fullLabel(f, files)
		}
	}
	return out
}

// option is a part of a result's name.
type option struct{ name, value string }

func options(f *bench.File, files []*bench.File) []option {
	var out []option
	for _, p := range strings.Split(f.Name, "/")[1:] {
		name, value, _ := strings.Cut(p, "=")
		out = append(out, option{name, value})
	}
	n := ranges(f)
	if slices.ContainsFunc(files, func(g *bench.File) bool { return g.Name == f.Name && ranges(g) != n }) {
		out = append(out, option{"ranges", fmt.Sprint(n)})
	}
	by := client(f)
	if slices.ContainsFunc(files, func(g *bench.File) bool { return g.Spec.Workload == f.Spec.Workload && client(g) != by }) {
		out = append(out, option{"client", by})
	}
	return out
}

// client is through which the first system was measured.
func client(f *bench.File) string {
	if len(f.Runs) == 0 {
		return ""
	}
	return f.Runs[0].System.Client
}

// values are what the results of the same workload have for an option, each as often as it is there;
// empty where it is not.
func values(name string, f *bench.File, files []*bench.File) map[string]int {
	out := map[string]int{}
	for _, g := range files {
		if g.Spec.Workload != f.Spec.Workload {
			continue
		}
		value := ""
		for _, o := range options(g, files) {
			if o.name == name {
				value = o.value
			}
		}
		out[value]++
	}
	return out
}

// loads are options that are always told where results differ in them.
var loads = []string{"clients", "rate", "ranges", "client"}

func label(f *bench.File, files []*bench.File) string {
	out := []string{f.Spec.Workload}
	for _, o := range options(f, files) {
		all := values(o.name, f, files)
		if len(all) < 2 || o.name == "conns" || o.name == "page-size" {
			continue
		}
		usual := true
		for v, n := range all {
			usual = usual && (v == o.value || n < all[o.value])
		}
		if !usual || slices.Contains(loads, o.name) {
			out = append(out, phrase(o))
		}
	}
	return strings.Join(out, ", ")
}

func fullLabel(f *bench.File, files []*bench.File) string {
	out := []string{f.Spec.Workload}
	for _, o := range options(f, files) {
		if len(values(o.name, f, files)) > 1 {
			out = append(out, o.name+"="+o.value)
		}
	}
	return strings.Join(out, " ")
}

func phrase(o option) string {
	switch o.name {
	case "clients":
		if o.value == "1" {
			return "1 client"
		}
		return o.value + " clients"
	case "rate":
		return o.value + "/s due"
	case "val-size":
		var n float64
		if _, err := fmt.Sscan(o.value, &n); err == nil {
			return unit.Bytes(n)
		}
	case "key-space-size":
		if o.value == "1" {
			return "1 key"
		}
		return o.value + " keys"
	case "keys-per-range":
		return o.value + " keys each"
	case "way":
		return o.value
	case "consistency":
		if o.value == bench.Serializable {
			return "serializable"
		}
		return "linearizable"
	case "client":
		return "by " + o.value
	case "ranges":
		if o.value == "1" {
			return "1 range"
		}
		return o.value + " ranges"
	case "watchers", "leases", "streams":
		return o.value + " " + o.name
	}
	return o.name + " " + o.value
}
