package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

var (
	// ErrHelp is returned when help was asked for; its text has been written.
	ErrHelp = errors.New("help requested")
	// ErrVersion is returned when only the version was asked for.
	ErrVersion = errors.New("version requested")
)

// UsageError is returned for a command line that cannot be read: an unknown flag, a value that
// does not have its flag's form. What is wrong has been written. Exit code 2, as for etcd.
type UsageError struct{ Err error }

// Error says what is wrong.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// rejectedError marks a value that has its flag's form but is not accepted: exit code 1.
type rejectedError struct{ err error }

func (e *rejectedError) Error() string { return e.err.Error() }
func (e *rejectedError) Unwrap() error { return e.err }

// Environment is what Parse takes from the process.
type Environment struct {
	Environ []string // "NAME=value"
	Stdout  io.Writer
	Stderr  io.Writer
}

// parser is one parse: values of flags in the order in which they were met.
type parser struct {
	cfg     *Config
	specs   map[string]*flagSpec
	fs      *flag.FlagSet
	values  map[string]string
	file    string
	version bool
}

// Parse reads the command line (without the program's name), then the environment; where a
// configuration file is named, that file instead of both, as etcd does.
func Parse(args []string, env Environment) (*Config, error) {
	p := newParser(env)
	if err := p.fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			writeHelp(env.Stdout)
			return nil, ErrHelp
		}
		return nil, &UsageError{err}
	}
	if p.fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a valid flag", p.fs.Arg(0))
	}
	if p.version {
		return nil, ErrVersion
	}
	vars := envMap(env.Environ)
	if p.file == "" {
		p.file = vars["ETCD_CONFIG_FILE"]
	}
	if p.file != "" {
		if err := p.readFile(); err != nil {
			return p.cfg, err
		}
	} else if err := p.readEnv(vars); err != nil {
		return p.cfg, err
	}
	if err := p.finish(); err != nil {
		return p.cfg, err
	}
	return p.cfg, p.cfg.Validate()
}

func newParser(env Environment) *parser {
	p := &parser{cfg: newConfig(), specs: map[string]*flagSpec{}, values: map[string]string{}}
	p.fs = flag.NewFlagSet("node", flag.ContinueOnError)
	p.fs.SetOutput(env.Stderr)
	p.fs.Usage = func() { writeUsage(env.Stderr) }
	all := append(groups(), flagGroup{flags: oldFlags()})
	for _, g := range all {
		for _, s := range g.flags {
			p.specs[s.name] = &s
			p.fs.Var(&flagValue{p: p, spec: &s}, s.name, s.usage)
		}
	}
	p.fs.StringVar(&p.file, "config-file", "", "")
	p.fs.BoolVar(&p.version, "version", false, "")
	return p
}

// flagValue collects a flag; the last one of a name wins, and only that one is applied.
type flagValue struct {
	p    *parser
	spec *flagSpec
}

func (v *flagValue) String() string { return "" }

func (v *flagValue) IsBoolFlag() bool { return v.spec != nil && v.spec.kind == kindBool }

func (v *flagValue) Set(text string) error {
	// A trial on a scratch Config finds malformed values while the flag package can still name
	// the flag.
	if err := v.spec.check(text); err != nil {
		return err
	}
	if v.spec.fate == fateUsed {
		var rejected *rejectedError
		if err := v.spec.set(newConfig(), text); err != nil && !errors.As(err, &rejected) {
			return err
		}
	}
	v.p.values[v.spec.name] = text
	return nil
}

func envMap(environ []string) map[string]string {
	m := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		m[name] = value
	}
	return m
}

func envName(flagName string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// readEnv adds what the command line left unsaid. Flags win; a variable that loses, or that no
// flag knows, is worth a line.
func (p *parser) readEnv(vars map[string]string) error {
	known := map[string]string{}
	for name := range p.specs {
		known[envName(name)] = name
	}
	for _, key := range sortedKeys(vars) {
		value := vars[key]
		if !strings.HasPrefix(key, "ETCD_") || value == "" || key == "ETCD_CONFIG_FILE" {
			continue
		}
		name, ok := known[key]
		if !ok {
			p.cfg.warn("unrecognized environment variable", "environment-variable", key+"="+value)
			continue
		}
		if _, set := p.values[name]; set {
			p.cfg.warn("environment variable is shadowed by the command-line flag", "environment-variable", key)
			continue
		}
		if err := p.fs.Set(name, value); err != nil {
			return fmt.Errorf("invalid value %q for %s: %w", value, key, err)
		}
		if name == secretFlag {
			value = hidden
		}
		p.cfg.info("recognized and used environment variable", "variable-name", key, "variable-value", value)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// finish applies the collected values and derives what depends on several of them.
func (p *parser) finish() error {
	c := p.cfg
	for _, name := range sortedKeys(p.values) {
		c.explicit[name] = true
		if err := p.specs[name].apply(c, p.values[name]); err != nil {
			return err
		}
	}
	c.resolveTuning()
	if c.explicit["listen-client-urls"] && !c.explicit["advertise-client-urls"] {
		c.AdvertiseClientURLs = nil
	}
	p.detectHost()
	if c.DataDir == "" {
		c.DataDir = c.Name + ".pontoon"
		if !IsGateway(c) {
			c.warn("'data-dir' was empty; using default", "data-dir", c.DataDir)
		}
	}
	if !c.explicit["initial-cluster"] && !c.Discovery.On() && c.Discovery.Service == "" {
		c.InitialCluster = c.defaultCluster()
	}
	return nil
}

// resolveTuning lets --tuning decide what no flag of its own does.
func (c *Config) resolveTuning() {
	if c.Tuning == TuningAuto {
		return
	}
	if !c.explicit["cpu-scheduling"] {
		c.CPUScheduling = SchedulingNormal
	}
	if !c.explicit["batch-linger-max"] {
		c.BatchLingerMax = 0
	}
	if !c.explicit["delivery-linger-max"] {
		c.DeliveryLingerMax = 0
	}
}

// defaultCluster is a cluster of this node alone.
func (c *Config) defaultCluster() string {
	if c.Name == DefaultName {
		return DefaultName + "=" + defaultPeerURL
	}
	var pairs []string
	for i := range c.AdvertisePeerURLs {
		pairs = append(pairs, c.Name+"="+c.AdvertisePeerURLs[i].String())
	}
	return strings.Join(pairs, ",")
}

// detectHost advertises the machine's own address where the node listens on all of them and
// nothing else was said: "localhost" would send others to themselves.
func (p *parser) detectHost() {
	c := p.cfg
	if !c.explicit["initial-advertise-peer-urls"] {
		adoptHost(c, c.ListenPeerURLs, c.AdvertisePeerURLs)
	}
	if !c.explicit["advertise-client-urls"] {
		adoptHost(c, c.ListenClientURLs, c.AdvertiseClientURLs)
	}
}

// Validate checks the whole; its texts are etcd's where etcd has the rule. It resolves the host
// names of peer URLs when they differ in writing.
func (c *Config) Validate() error {
	if err := c.checkLogging(); err != nil {
		return err
	}
	if err := checkRole(c); err != nil {
		return err
	}
	if err := c.checkURLs(); err != nil {
		return err
	}
	if err := c.Discovery.check(c.InitialCluster); err != nil {
		return err
	}
	if err := c.checkTimes(); err != nil {
		return err
	}
	if err := c.checkSecurity(); err != nil {
		return err
	}
	if len(c.ListenClientURLs) > 0 && len(c.AdvertiseClientURLs) == 0 {
		return errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	}
	if c.InitialRanges > 0 && len(c.InitialSplitKeys) > 0 {
		return errors.New("--initial-ranges and --initial-split-keys exclude each other")
	}
	if err := c.resolveCompaction(); err != nil {
		return err
	}
	if c.MaxTxnOps == 0 {
		return errors.New("--max-txn-ops must be >0 (set to 0)")
	}
	if c.MaxRequestBytes == 0 {
		return errors.New("--max-request-bytes must be >0 (set to 0)")
	}
	if IsGateway(c) {
		return nil
	}
	if c.Name == DefaultName {
		c.warn("it isn't recommended to use default name, please set a value for --name", "name", c.Name)
	}
	if c.Discovery.On() {
		c.resolveAlone()
		return nil
	}
	return c.resolveCluster(net.LookupHost)
}

func (c *Config) checkTimes() error {
	beat, election := c.HeartbeatInterval.Milliseconds(), c.ElectionTimeout.Milliseconds()
	switch {
	case beat <= 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", beat)
	case election <= 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %dms)", election)
	case electionPerHeartbeat*beat > election:
		return fmt.Errorf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]", election, beat)
	case c.ElectionTimeout > electionTimeoutMax:
		return fmt.Errorf("--election-timeout[%vms] is too long, and should be set less than %vms", election, electionTimeoutMax.Milliseconds())
	case c.WatchProgressNotifyInterval < time.Millisecond:
		return fmt.Errorf("--watch-progress-notify-interval must be at least 1ms (set to %v)", c.WatchProgressNotifyInterval)
	case c.BatchLingerMax < 0 || c.BatchLingerMax > batchLingerLimit:
		return fmt.Errorf("--batch-linger-max must be between 0 and %v (set to %v)", batchLingerLimit, c.BatchLingerMax)
	case c.DeliveryLingerMax < 0 || c.DeliveryLingerMax > batchLingerLimit:
		return fmt.Errorf("--delivery-linger-max must be between 0 and %v (set to %v)", batchLingerLimit, c.DeliveryLingerMax)
	case c.DeadAfter < time.Second:
		return fmt.Errorf("--dead-after must be at least 1s (set to %v)", c.DeadAfter)
	case c.MergeAfter < time.Second:
		return fmt.Errorf("--merge-after must be at least 1s (set to %v)", c.MergeAfter)
	case c.ShutdownTimeout < time.Millisecond || c.ShutdownTimeout > shutdownLimit:
		return fmt.Errorf("--shutdown-timeout must be between 1ms and %v (set to %v)", shutdownLimit, c.ShutdownTimeout)
	case c.DrainPeriod < 0 || c.DrainPeriod > shutdownLimit:
		return fmt.Errorf("--drain-period must be between 0 and %v (set to %v)", shutdownLimit, c.DrainPeriod)
	case c.MaxConnectionAge != 0 && c.MaxConnectionAge < time.Second:
		return fmt.Errorf("--max-connection-age must be 0 or at least 1s (set to %v)", c.MaxConnectionAge)
	case c.MaxConnectionAgeGrace < time.Second:
		return fmt.Errorf("--max-connection-age-grace must be at least 1s (set to %v)", c.MaxConnectionAgeGrace)
	case c.TimerSlack < 0 || c.TimerSlack > timerSlackLimit:
		return fmt.Errorf("--timer-slack must be between 0 and %v (set to %v)", timerSlackLimit, c.TimerSlack)
	}
	return nil
}

func (c *Config) checkURLs() error {
	if len(c.ListenPeerURLs) == 0 && !IsGateway(c) || len(c.ListenClientURLs) == 0 || len(c.AdvertisePeerURLs) == 0 {
		return errors.New("--listen-peer-urls, --listen-client-urls and --initial-advertise-peer-urls must not be empty")
	}
	if err := errors.Join(checkBind(c.ListenPeerURLs), checkBind(c.ListenClientURLs),
		checkBind(c.ListenClientHTTPURLs), checkBind(c.ListenMetricsURLs)); err != nil {
		return err
	}
	if err := checkHost(c.AdvertisePeerURLs); err != nil {
		return fmt.Errorf(`--initial-advertise-peer-urls %q must be "host:port" (%w)`, joinURLs(c.AdvertisePeerURLs), err)
	}
	if err := checkHost(c.AdvertiseClientURLs); err != nil {
		return fmt.Errorf(`--advertise-client-urls %q must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (%w)`,
			joinURLs(c.AdvertiseClientURLs), err)
	}
	return nil
}

func (c *Config) checkLogging() error {
	if c.LogFormat != "json" && c.LogFormat != "console" {
		return fmt.Errorf("unknown log format: %s, supported values json, console", c.LogFormat)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error", "dpanic", "panic", "fatal"}, c.LogLevel) {
		return fmt.Errorf("unrecognized level: %q", c.LogLevel)
	}
	if len(c.LogOutputs) > 1 && slices.Contains(c.LogOutputs, "default") {
		return fmt.Errorf("multi logoutput for %q is not supported yet", "default")
	}
	return nil
}

// FromProcess is the environment of this process.
func FromProcess() Environment {
	return Environment{Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
}
