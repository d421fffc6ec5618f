package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

// Format is the version of the result files that are written.
const Format = 1

// File is the result of one command: one run, or several runs of one workload in pairs.
type File struct {
	Format  int             `json:"format"`
	Made    time.Time       `json:"made"`
	Version string          `json:"bench_version"`
	Machine machine.Machine `json:"machine"`
	Name    string          `json:"name"`
	Spec    Spec            `json:"spec"`
	Runs    []Run           `json:"runs"`
	Ratios  []Ratio         `json:"ratios,omitempty"`
	// Good is whether every run is.
	Good bool `json:"good"`
}

// Run is one run of a workload against one system.
type Run struct {
	Target   string        `json:"target"`
	Pair     int           `json:"pair"` // from 0
	System   SystemInfo    `json:"system"`
	Began    time.Time     `json:"began"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	Prepared time.Duration `json:"prepared_ns"` // how long the preparation took
	// PreparedAgain is how many requests of the preparation were tried again because servers did not get to them in time.
	PreparedAgain int64 `json:"prepared_again,omitempty"`

	Operations int64            `json:"operations"`
	Failed     int64            `json:"failed"`
	Unstarted  int64            `json:"unstarted,omitempty"` // open loop: due, never begun
	Errors     map[string]int64 `json:"errors,omitempty"`
	Rate       float64          `json:"ops_s"`

	// Corrected is whether latency counts from when an operation was due.
	Corrected bool                    `json:"corrected_for_coordinated_omission"`
	Latency   load.Summary            `json:"latency"`
	Kinds     map[string]load.Summary `json:"kinds,omitempty"`
	Figures   map[string]float64      `json:"figures,omitempty"`
	Series    []Series                `json:"series,omitempty"`
	Points    []load.Point            `json:"points,omitempty"`

	// Servers and Client are what the processes used while it was measured; Servers is missing for
	// endpoints that the harness did not start.
	Servers *Consumption     `json:"servers,omitempty"`
	Client  *Consumption     `json:"client,omitempty"`
	Memory  []machine.Sample `json:"memory,omitempty"`
	// Others is how many of the machine's cores were busy with something else meanwhile.
	Others float64 `json:"others_cores"`

	Good     bool     `json:"good"`
	Problems []string `json:"problems,omitempty"`
}

// Series is what a workload measured as something else grew, such as memory over watchers.
type Series struct {
	Name   string       `json:"name"`
	X      string       `json:"x"` // what it is over, with a unit, such as "watchers"
	Y      string       `json:"y"` // what it is, such as "B" or "s"
	Points [][2]float64 `json:"points"`
}

// figure adds a figure of the workload's own. Its name ends in its unit; see higherIsBetter.
func (r *Run) figure(name string, value float64) {
	if r.Figures == nil {
		r.Figures = map[string]float64{}
	}
	r.Figures[name] = value
}

// higherIsBetter tells so by a figure's name: "…/s" (per second) and "…/cpu-s" (per second of CPU)
// are, and "most-…" (the highest that was held). Of all others less is better.
func higherIsBetter(name string) bool {
	return strings.HasSuffix(name, "/s") || strings.HasSuffix(name, "/cpu-s") || strings.HasPrefix(name, "most-")
}

// othersMax is which share of the machine's cores others may use before figures count as disturbed.
const othersMax = 0.1

// Disturbed tells whether others used so much of the machine that figures say less than they seem to.
func (f *File) Disturbed(r Run) bool {
	return f.Machine.Cores > 0 && r.Others > othersMax*float64(f.Machine.Cores)
}

// SystemInfo says what was measured.
type SystemInfo struct {
	Kind     string  `json:"kind"`
	Version  string  `json:"version"`
	Program  string  `json:"program,omitempty"`  // if it was named with the target
	Client   string  `json:"client"`             // through which it was measured
	Nodes    int     `json:"nodes,omitempty"`    // 0: not started here
	Gateways int     `json:"gateways,omitempty"` // in front of them, and what clients were connected to
	Ranges   int     `json:"ranges,omitempty"`
	CPUs     float64 `json:"server_cpus,omitempty"` // that each server was held to; 0: what there is
	Writes   int     `json:"server_writes,omitempty"`
	TLS      bool    `json:"tls,omitempty"` // with certificates of both sides, on every port
	// Permissions are those of the user as whom clients log in; 0: there is no authentication.
	Permissions int        `json:"permissions,omitempty"`
	Endpoints   []string   `json:"endpoints"`
	Commands    [][]string `json:"commands,omitempty"`
}

// Consumption is what processes used during a run. CPU and written bytes are those of the measured
// time alone; the peaks are those of the processes' lives until its end.
type Consumption struct {
	CPUSeconds    float64 `json:"cpu_s"`
	CPUPerOp      float64 `json:"cpu_us_per_op"`
	Written       int64   `json:"written_bytes"`
	WrittenPerOp  float64 `json:"written_bytes_per_op"`
	PeakResident  int64   `json:"peak_rss_bytes"`
	PeakAnonymous int64   `json:"peak_anon_bytes,omitempty"`
}

func consumption(before, after machine.Usage, anon, operations int64) *Consumption {
	c := &Consumption{
		CPUSeconds: (after.CPU - before.CPU).Seconds(), Written: after.Written - before.Written,
		PeakResident: after.PeakRSS, PeakAnonymous: anon,
	}
	if operations > 0 {
		c.CPUPerOp = c.CPUSeconds * 1e6 / float64(operations)
		c.WrittenPerOp = float64(c.Written) / float64(operations)
	}
	return c
}

// Save writes a result to a file, as a whole or not at all.
func (f *File) Save(path string) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".bench-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// Load reads a result.
func Load(path string) (*File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s is not a result of bench: %w", path, err)
	}
	if f.Format != Format {
		return nil, fmt.Errorf("%s has format %d; this program reads format %d", path, f.Format, Format)
	}
	return &f, nil
}

// StableName is the name of a measurement as a part of a file's name.
func StableName(name string) string {
	clean := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '=', r == '-':
			return r
		}
		return '_'
	}
	return strings.Map(clean, strings.ToLower(name[:1])+name[1:])
}

// FileName is where a result goes by default.
func (f *File) FileName() string {
	target := "none"
	if len(f.Runs) > 0 {
		target = f.Runs[0].System.Kind
		for _, r := range f.Runs {
			if r.Target != f.Runs[0].Target {
				target += "-vs-" + r.System.Kind
				break
			}
		}
	}
	return fmt.Sprintf("%s-%s-%s.json", f.Spec.Workload, target, f.Made.UTC().Format("20060102-150405.000"))
}
