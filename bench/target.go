package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/bench/machine"
	"pontoon/bench/quota"
	"pontoon/test/e2e/harness"
)

// Target is a system that can be measured.
type Target struct {
	Kind      string // TargetPontoon, TargetEtcd or TargetEndpoints
	Program   string // of a local one, if it is another than Setup's
	Endpoints []string
}

// The kinds of targets.
const (
	TargetPontoon   = "pontoon"
	TargetEtcd      = "etcd"
	TargetEndpoints = "endpoints"
)

// ParseTarget reads pontoon or etcd, each also with =PROGRAM, or endpoints=URL,….
func ParseTarget(s string) (Target, error) {
	kind, list, given := strings.Cut(s, "=")
	switch {
	case (kind == TargetPontoon || kind == TargetEtcd) && given == (list != ""):
		return Target{Kind: kind, Program: list}, nil
	case given && kind == TargetEndpoints && list != "":
		return Target{Kind: kind, Endpoints: strings.Split(list, ",")}, nil
	}
	return Target{}, fmt.Errorf("%q is no target: want pontoon, etcd, either with =PROGRAM, or endpoints=URL,…", s)
}

// String is the inverse of ParseTarget.
func (t Target) String() string {
	if t.Kind == TargetEndpoints {
		return t.Kind + "=" + strings.Join(t.Endpoints, ",")
	}
	if t.Program != "" {
		return t.Kind + "=" + t.Program
	}
	return t.Kind
}

// Local tells whether the harness starts it.
func (t Target) Local() bool { return t.Kind != TargetEndpoints }

// Setup is how local systems are started, the same for all.
type Setup struct {
	Nodes  int
	Ranges int // of Pontoon: into how many parts the workload's keys are cut
	// Dir gets data and logs, in a directory per run, removed after it unless Keep.
	Dir  string
	Keep bool
	// Binaries are the servers' programs, by kind.
	Binaries map[string]string
	// Args are given to every server of whatever kind.
	Args []string
	// ServerCPUs is how many processors' time each server may use (bench/quota); 0: what there is.
	ServerCPUs float64
	// ServerWrites is how many writes a second each server may make to the disk of Dir; 0: what it takes.
	ServerWrites int
	// TLS is certificates of both sides on every port.
	TLS bool
	// Permissions are those of the user as whom clients log in, which cover all keys together; 0: authentication is off.
	Permissions int

	splits []string // where the keys are cut
	spans  []string // where the permissions are
	client Client

	spares      int // nodes that may join later
	gateways    int // in front of the nodes, with these flags
	gatewayArgs []string
}

// system is a running system under test.
type system struct {
	target  Target
	info    SystemInfo
	cluster *harness.Cluster // nil: not started here
	quotas  *quota.Groups    // nil: the servers have none
	guards  guards
	setup   Setup

	restarting sync.Mutex                      // held while servers are ended on purpose
	away       map[*harness.Node]machine.Usage // those that were ended for good or have not joined yet, and what they had used
	spares     []*harness.Node                 // of the latter
}

// startPatience bounds how long a cluster may take to serve, and rangePatience how much longer a new
// one may take for each of its ranges.
const (
	startPatience = 60 * time.Second
	rangePatience = 20 * time.Millisecond
)

// restartPatience bounds how long servers may take to end.
const restartPatience = 60 * time.Second

func start(ctx context.Context, t Target, setup Setup) (*system, error) {
	s := &system{target: t, setup: setup, info: SystemInfo{Kind: t.Kind, Program: t.Program, Endpoints: t.Endpoints}}
	if !t.Local() {
		return s, nil
	}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// launch starts the servers.
func (s *system) launch(ctx context.Context) error {
	t, setup := s.target, s.setup
	if err := os.MkdirAll(setup.Dir, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(setup.Dir, t.Kind+"-")
	if err != nil {
		return err
	}
	o := harness.Options{
		Kind: harness.Kind(t.Kind), Binary: s.program(), Dir: dir, Nodes: setup.Nodes,
		SplitKeys: quoted(setup.splits), Args: setup.Args,
	}
	if err := s.guards.prepare(&o, setup); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if limits := (quota.Limits{CPUs: setup.ServerCPUs, Writes: setup.ServerWrites, Dir: dir}); limits.CPUs > 0 || limits.Writes > 0 {
		if s.quotas, err = quota.Make(setup.Nodes, limits); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		o.Within = s.quotas.Command
	}
	s.cluster, err = harness.New(o)
	if err != nil {
		return errors.Join(err, s.closeQuotas(), os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience+time.Duration(len(setup.splits))*rangePatience)
	defer cancel()
	if err := s.cluster.Start(ctx); err != nil {
		return errors.Join(err, s.stop())
	}
	if err := errors.Join(s.addGateways(ctx), s.addSpares()); err != nil {
		return errors.Join(err, s.stop())
	}
	s.info.Endpoints, s.info.Nodes, s.info.CPUs, s.info.Writes = s.cluster.Endpoints()[:setup.Nodes], setup.Nodes, setup.ServerCPUs, setup.ServerWrites
	if s.info.TLS, s.info.Permissions = setup.TLS, setup.Permissions; t.Kind == TargetPontoon {
		s.info.Ranges = len(setup.splits) + 1
	}
	for _, n := range s.servers() {
		s.info.Commands = append(s.info.Commands, command(o, n.Args))
	}
	if s.info.Gateways = len(s.cluster.Gateways); s.info.Gateways > 0 {
		s.info.Endpoints = nil
		for _, g := range s.cluster.Gateways {
			s.info.Endpoints = append(s.info.Endpoints, g.ClientURL)
		}
	}
	if err := s.guards.enable(ctx, s.info.Endpoints[0], setup.spans); err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

// program is the servers'.
func (s *system) program() string {
	return cmp.Or(s.target.Program, s.setup.Binaries[s.target.Kind])
}

// closeQuotas removes the control groups of servers that have ended.
func (s *system) closeQuotas() error {
	if s.quotas == nil {
		return nil
	}
	return s.quotas.Close()
}

// command is how a server was started, without what differs from machine to machine.
func command(o harness.Options, args []string) []string {
	out := []string{filepath.Base(o.Binary)}
	for _, a := range args {
		out = append(out, strings.ReplaceAll(a, o.Dir, "DIR"))
	}
	return out
}

// quoted writes keys so that a list of them may be given to a flag that takes Go's escapes.
func quoted(keys []string) []string {
	var out []string
	for _, k := range keys {
		var b strings.Builder
		for _, c := range []byte(k) {
			if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '/' || c == '-' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
		out = append(out, b.String())
	}
	return out
}

// pids are the servers' processes.
func (s *system) pids() []int {
	if s.cluster == nil {
		return nil
	}
	return pidsOf(s.servers())
}

// servers are all that were started here: nodes, then gateways.
func (s *system) servers() []*harness.Node {
	if s.cluster == nil {
		return nil
	}
	return slices.Concat(s.cluster.Nodes, s.cluster.Gateways)
}

// restart ends all servers, as their operator would or as a power cut does, and starts them again.
// It returns when it started the first; they need not serve yet.
func (s *system) restart(kill bool) (began time.Time, err error) {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	switch {
	case s.cluster == nil:
		err = errors.New("these servers were not started here")
	case kill:
		err = s.cluster.KillAll()
	default:
		err = s.cluster.StopAll(restartPatience)
	}
	if err != nil {
		return began, err
	}
	began = time.Now()
	for _, n := range s.cluster.Nodes {
		if err := n.Start(); err != nil {
			return began, err
		}
	}
	return began, nil
}

// guardEvery is how often it is looked whether all servers live.
const guardEvery = 200 * time.Millisecond

// guard returns a context that ends, too, when a server that was started here has ended by itself, with
// what it last said as the cause. end must be called.
func (s *system) guard(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.cluster != nil {
		go func() {
			for ctx.Err() == nil {
				wait(ctx, guardEvery)
				if err := s.missing(); err != nil {
					cancel(err)
				}
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// missing is an endedError if a server is not there that should be.
func (s *system) missing() error {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	for _, n := range s.servers() {
		if _, meant := s.away[n]; !meant && !n.Running() {
			return &endedError{n.Name, n.LogTail(5)}
		}
	}
	return nil
}

// endedError is the cause of a context that guard has ended.
type endedError struct{ name, log string }

func (e *endedError) Error() string { return fmt.Sprintf("%s has ended by itself:\n%s", e.name, e.log) }

// ended is the error of the server for which guard has ended ctx; nil if there is none.
func ended(ctx context.Context) error {
	var e *endedError
	if errors.As(context.Cause(ctx), &e) {
		return e
	}
	return nil
}

// disk is what the servers' data takes on the disk; nothing where they were not started here.
func (s *system) disk() (bytes int64, err error) {
	if s.cluster == nil {
		return 0, nil
	}
	for _, n := range s.cluster.Nodes {
		of, err := machine.Disk(n.DataDir)
		if err != nil {
			return 0, err
		}
		bytes += of
	}
	return bytes, nil
}

// stop ends what was started and removes its data.
func (s *system) stop() error {
	if s.cluster == nil {
		return nil
	}
	err := errors.Join(s.stopGateways(), s.cluster.StopAll(restartPatience), s.closeQuotas())
	if s.setup.Keep {
		return err
	}
	return errors.Join(err, s.cluster.Remove())
}

// Client is a way to make clients.
type Client struct {
	Name string
	New  func(clientv3.Config) (*clientv3.Client, error)
}

// connect opens connections, one endpoint each in turn, and waits until all serve. If there are fewer
// than endpoints each has all of them, so that clientv3 spreads the requests and it does not matter
// which node leads.
func (s *system) connect(ctx context.Context, n int) ([]*clientv3.Client, error) {
	if s.setup.client.New == nil {
		s.setup.client = Client{Name: "clientv3", New: clientv3.New}
	}
	s.info.Client = s.setup.client.Name
	var everywhere []func(*clientv3.Config)
	if n < len(s.info.Endpoints) {
		everywhere = append(everywhere, func(cfg *clientv3.Config) { cfg.Endpoints = s.info.Endpoints })
	}
	var all []*clientv3.Client
	for i := range n {
		c, err := s.dial(i, everywhere...)
		if err != nil {
			return nil, errors.Join(err, closeAll(all))
		}
		all = append(all, c)
	}
	if err := serving(ctx, all); err != nil {
		return nil, errors.Join(err, closeAll(all))
	}
	status, err := all[0].Status(ctx, s.info.Endpoints[0])
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the version: %w", err), closeAll(all))
	}
	s.info.Version = status.Version
	if s.cluster != nil {
		if v := programVersion(ctx, s.program()); v != "" {
			s.info.Version = v
		}
	}
	return all, nil
}

// dial opens connection i.
func (s *system) dial(i int, changes ...func(*clientv3.Config)) (*clientv3.Client, error) {
	endpoint := s.info.Endpoints[i%len(s.info.Endpoints)]
	cfg := clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	s.guards.login(&cfg)
	for _, change := range changes {
		change(&cfg)
	}
	c, err := s.setup.client.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return c, nil
}

// serving waits until a linearizable read succeeds over every connection, and one of all keys over
// the first.
func serving(ctx context.Context, all []*clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for i, c := range all {
		opts := []clientv3.OpOption{clientv3.WithCountOnly()}
		if i == 0 {
			opts = append(opts, clientv3.WithFromKey())
		}
		for {
			try, end := context.WithTimeout(ctx, 5*time.Second)
			_, err := c.Get(try, "\x00", opts...)
			end()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%v does not serve: %w", c.Endpoints(), err)
			}
			wait(ctx, 100*time.Millisecond)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func closeAll(all []*clientv3.Client) error {
	var errs []error
	for _, c := range all {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// programVersion is what a server's program says of itself, on one line.
func programVersion(ctx context.Context, binary string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return ""
	}
	return strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), "; ")
}
