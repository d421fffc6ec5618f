package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/credentials"

	"pontoon/internal/config"
	"pontoon/internal/datadir"
	"pontoon/internal/discovery"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
	"pontoon/internal/logging"
	"pontoon/internal/peer"
	"pontoon/internal/tlsport"
	"pontoon/internal/tuning"
)

// version is Pontoon's own.
const version = "0.1.0"

// stopTimeout bounds a clean stop behind the end of streams and the handing over of leaderships; what is durable is so without it.
const stopTimeout = 15 * time.Second

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// node is a running server.
type node interface {
	// Ready is closed once clients are served.
	Ready() <-chan struct{}
	// Done receives the error that ends the node from inside.
	Done() <-chan error
	// Stop ends it cleanly within ctx.
	Stop(ctx context.Context) error
}

// parts is what the process gives to a server, which owns the listeners from then on.
type parts struct {
	cfg        *config.Config
	logger     *slog.Logger
	registry   *prometheus.Registry
	peer       []listener
	client     []listener
	clientHTTP []listener
	metrics    []listener
	tls        endpoints
}

type listener struct {
	net.Listener
	url   url.URL
	plain bool // something is to be served without TLS
	tls   bool // and with it
}

// starter builds a node and starts it.
type starter func(p parts) (node, error)

// run is the whole life of the process. Where a timer slack is asked for, relax may put the same program in
// its place, which begins again.
func run(args []string, env config.Environment, signals <-chan os.Signal, relax func(time.Duration) error, start starter) int {
	cfg, err := config.Parse(args, env)
	var usage *config.UsageError
	switch {
	case errors.Is(err, config.ErrHelp):
		return exitOK
	case errors.Is(err, config.ErrVersion):
		printVersion(env.Stdout)
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	}
	var strict error
	if err == nil && cfg.TimerSlack > 0 {
		strict = relax(cfg.TimerSlack)
	}
	lg, logErr := openLog(cfg, err)
	if logErr != nil {
		fmt.Fprintln(env.Stderr, logErr)
		return exitError
	}
	defer func() { _ = lg.Close() }() // nothing can be logged about it any more
	lg.Info("Running: ", "args", append([]string{"node"}, config.Hide(args)...))
	if cfg != nil {
		for _, n := range cfg.Notices {
			lg.Log(context.Background(), n.Level, n.Msg, n.Attrs...)
		}
	}
	if strict != nil { // a sandbox may forbid it
		lg.Info("the node's timers are as exact as the system's", "error", strict)
	}
	if err != nil {
		lg.Warn("failed to verify flags", "error", err)
		return exitError
	}
	lg.Info("starting an etcd server", settingsOf(cfg)...)
	life := runNode
	if config.IsGateway(cfg) {
		life = runGateway
	}
	err = life(cfg, lg.Logger, signals, start)
	if errors.Is(err, host.ErrRemoved) { // as etcd ends then: whoever starts it again shall not
		lg.Warn("server error", "error", err)
		lg.Warn("data-dir used by this member must be removed", "data-dir", cfg.DataDir)
		return exitOK
	}
	var taken *discovery.JoinError
	switch {
	case errors.Is(err, errStopped):
		return exitOK
	case errors.As(err, &taken):
		d := &cfg.Discovery
		lg.Warn("failed to bootstrap; discovery token was already used", "discovery-token", d.Token, "discovery-endpoints", d.Endpoints, "error", err)
		lg.Warn("do not reuse discovery token; generate a new one to bootstrap a cluster")
		return exitError
	case err != nil:
		lg.Log(context.Background(), logging.LevelFatal, "the node cannot run", "error", err)
		return exitError
	}
	return exitOK
}

// openLog opens the log that was asked for, or the default one to say why that is impossible.
func openLog(cfg *config.Config, parseErr error) (*logging.Logger, error) {
	if cfg == nil || parseErr != nil {
		return logging.Open(logging.Config{})
	}
	return logging.Open(logging.Config{Level: cfg.LogLevel, Format: cfg.LogFormat, Outputs: cfg.LogOutputs})
}

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "etcd Version: %s\n", httpapi.ServerVersion)
	fmt.Fprintf(w, "Pontoon Version: %s\n", version)
	fmt.Fprintf(w, "Go Version: %s\n", runtime.Version())
	fmt.Fprintf(w, "Go OS/Arch: %s/%s\n", runtime.GOOS, runtime.GOARCH)
}

// runNode opens what the node needs, runs it until a signal or an error, and stops it.
func runNode(cfg *config.Config, lg *slog.Logger, signals <-chan os.Signal, start starter) error {
	secure := sync.OnceValues(func() (endpoints, error) { return openEndpoints(cfg, lg) })
	dir, err := adoptDataDir(cfg, secure, signals, lg)
	if err != nil {
		return err
	}
	defer func() {
		if err := dir.Close(); err != nil {
			lg.Warn("the data directory's lock", "error", err)
		}
	}()
	defer tune(cfg, lg)()
	tls, err := secure()
	if err != nil {
		return err
	}
	p, err := open(cfg, tls, lg)
	if err != nil {
		return err
	}
	n, err := start(p)
	if err != nil {
		return err
	}
	lg.Info("now serving peer traffic, waiting for a quorum", "name", cfg.Name, "local-member-id", cfg.NodeID.String(),
		"cluster-id", fmt.Sprintf("%x", cfg.ClusterID), "pontoon-version", version, "etcd-version", httpapi.ServerVersion)
	return supervise(n, cfg.ShutdownTimeout+cfg.DrainPeriod, lg, signals)
}

// tune asks of the system and the runtime what flags allow; what it returns takes that back.
func tune(cfg *config.Config, lg *slog.Logger) (undo func()) {
	return tuning.Apply(tuning.Config{Batch: cfg.CPUScheduling == config.SchedulingBatch, Heap: cfg.Tuning == config.TuningAuto}, lg)
}

// errStopped says that a signal came before there was anything to stop.
var errStopped = errors.New("stopped by a signal")

// untilSignal does what may wait for others without end, until it is done or somebody tells the process to stop: errStopped then.
func untilSignal(signals <-chan os.Signal, lg *slog.Logger, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	select {
	case err := <-done:
		return err
	case sig := <-signals:
		lg.Info("received signal; shutting down", "signal", sig.String())
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return errStopped
	}
}

// adoptDataDir opens the data directory and lets it say who this node is when it knows.
func adoptDataDir(cfg *config.Config, secure func() (endpoints, error), signals <-chan os.Signal, lg *slog.Logger) (*datadir.Dir, error) {
	want := datadir.Identity{Cluster: cfg.ClusterID, Node: cfg.NodeID, Members: cfg.Members}
	pinned := cfg.Explicit("initial-cluster") && cfg.IsNewCluster() && !cfg.Discovery.On()
	first := false
	dir, got, err := datadir.OpenFirst(cfg.DataDir, want, pinned, func() (datadir.Identity, error) {
		first = true
		return firstStart(cfg, secure, signals, lg)
	})
	if err != nil {
		return nil, err
	}
	if !first && (!got.Joined && got.Cluster != want.Cluster || got.Node != want.Node) {
		lg.Info("server has already been initialized", "data-dir", cfg.DataDir, "local-member-id", got.Node.String())
	}
	if !first && cfg.Discovery.ByService() {
		lg.Warn("discovery token is ignored since cluster already initialized; valid logs are found", "wal-dir", cfg.RaftLogDir())
	}
	cfg.ClusterID, cfg.NodeID, cfg.Members, cfg.Joined = got.Cluster, got.Node, got.Members, got.Joined
	cfg.Discovery.Verify(cfg.Members, &cfg.PeerTLS)
	if got.Restored != "" { // what the node began with is in its files now
		if err := os.RemoveAll(filepath.Join(cfg.DataDir, datadir.Restore)); err != nil {
			return nil, errors.Join(err, dir.Close())
		}
	}
	return dir, nil
}

// open opens all listeners, or none.
func open(cfg *config.Config, tls endpoints, lg *slog.Logger) (p parts, err error) {
	p = parts{cfg: cfg, tls: tls, logger: lg, registry: prometheus.NewRegistry()}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var opened []listener
	for _, set := range []struct {
		urls []url.URL
		to   *[]listener
	}{
		{cfg.ListenPeerURLs, &p.peer},
		{cfg.ListenClientURLs, &p.client},
		{cfg.ListenClientHTTPURLs, &p.clientHTTP},
		{cfg.ListenMetricsURLs, &p.metrics},
	} {
		*set.to, err = listenAll(set.urls)
		opened = append(opened, *set.to...)
		if err != nil {
			for _, o := range opened {
				_ = o.Close() // the first error is the one to tell
			}
			return parts{}, err
		}
	}
	return p, nil
}

// endpoints are the sides of a node that may have TLS; nil: none.
type endpoints struct{ client, peer *tlsport.Endpoint }

// openEndpoints reads certificates, or makes them in the data directory, which is locked.
func openEndpoints(cfg *config.Config, lg *slog.Logger) (e endpoints, err error) {
	made := filepath.Join(cfg.DataDir, datadir.Fixtures)
	e.peer, err = tlsport.Open(tlsport.Config{
		Name: tlsport.Peer, Info: cfg.PeerTLS, Auto: cfg.PeerAutoTLS, Years: cfg.SelfSignedCertValidity,
		Hosts: hosts(cfg.ListenPeerURLs), Fixtures: filepath.Join(made, tlsport.Peer), Log: lg,
	})
	if err != nil {
		return endpoints{}, err
	}
	e.client, err = tlsport.Open(tlsport.Config{
		Name: tlsport.Client, Info: cfg.ClientTLS, Auto: cfg.ClientAutoTLS, Years: cfg.SelfSignedCertValidity,
		Hosts: hosts(cfg.ListenClientURLs, cfg.ListenClientHTTPURLs), Fixtures: filepath.Join(made, tlsport.Client), Log: lg,
	})
	return e, err
}

// credentials are those of calls to peers.
func (e endpoints) credentials() func(addr string) credentials.TransportCredentials {
	return peer.SecureBy(e.peer.Dial())
}

func hosts(sets ...[]url.URL) (out []string) {
	for _, u := range slices.Concat(sets...) {
		out = append(out, u.Host)
	}
	return out
}

// listenAll opens a socket for each place that URLs name: an address may be given twice, with TLS and without. With an error, it
// returns those that it has opened.
func listenAll(urls []url.URL) (ls []listener, err error) {
	for i := range urls {
		u := &urls[i]
		j := slices.IndexFunc(ls, func(l listener) bool { return config.SameSocket(&l.url, u) })
		if j < 0 {
			l, err := listen(u)
			if err != nil {
				return ls, err
			}
			ls, j = append(ls, l), len(ls)
		}
		if config.IsSecure(u) {
			ls[j].tls = true
		} else {
			ls[j].plain = true
		}
	}
	return ls, nil
}

func listen(u *url.URL) (listener, error) {
	network, address := config.ListenAddress(u)
	if network == "unix" {
		// A socket file that a killed process left behind is nobody's; one that answers is.
		if c, err := net.Dial(network, address); err == nil {
			_ = c.Close()
			return listener{}, fmt.Errorf("listen on %s: address already in use", u)
		}
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return listener{}, fmt.Errorf("listen on %s: %w", u, err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return listener{}, fmt.Errorf("listen on %s: %w", u, err)
	}
	return listener{Listener: l, url: *u}, nil
}

// supervise waits for the node's end, which has so long to end its clients' streams and to hand its leaderships over. A second signal ends the process at once.
func supervise(n node, handover time.Duration, lg *slog.Logger, signals <-chan os.Signal) error {
	ready := n.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			lg.Info("ready to serve client requests")
			notifyInit(lg, daemon.SdNotifyReady)
		case err := <-n.Done():
			return errors.Join(err, stop(n, handover))
		case sig := <-signals:
			lg.Info("received signal; shutting down", "signal", sig.String())
			notifyInit(lg, daemon.SdNotifyStopping)
			go func() {
				if again, ok := <-signals; ok {
					lg.Warn("received another signal; not waiting any longer", "signal", again.String())
					os.Exit(exitError)
				}
			}()
			began := time.Now()
			err := stop(n, handover)
			lg.Info("closed the node", "took", time.Since(began))
			return err
		}
	}
}

func stop(n node, handover time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), handover+stopTimeout)
	defer cancel()
	return n.Stop(ctx)
}

// notifyInit tells the init system, where it asked to be told.
func notifyInit(lg *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		lg.Warn("failed to notify the init system", "error", err)
	}
}

// raiseFileLimit lets the process open as many files as the system allows it.
func raiseFileLimit() {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err == nil && lim.Cur < lim.Max {
		lim.Cur = lim.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim) // the limit that is there must do then
	}
}
