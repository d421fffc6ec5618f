package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/internal/config"
	"pontoon/internal/patience"
	"pontoon/shard"
)

// Reasons why a cluster is not found, in etcd's words.
var (
	ErrInvalidURL   = errors.New("discovery: invalid peer URL")
	ErrBadSize      = errors.New("discovery: size key is bad")
	ErrSizeNotFound = errors.New("discovery: size key not found")
	ErrFull         = errors.New("discovery: cluster is full")
)

// JoinError says that a node could not become part of the cluster that its token stands for. There is no use in trying again.
type JoinError struct{ Err error }

// Error is etcd's text.
func (e *JoinError) Error() string {
	return fmt.Sprintf("failed to join discovery cluster (%v)", e.Err)
}

// Unwrap gives the cause.
func (e *JoinError) Unwrap() error { return e.Err }

const (
	registry = "/_etcd/registry"

	// membersMax is how many members are read, the ones that came first: more than any cluster begins with.
	membersMax = 1000

	// Who asks in vain waits 2 s, then twice as long, up to 256 s.
	backoffUnit = time.Second
	doublings   = 8
)

// Join registers the member of this id as own ("name=url", one for each URL) under the token of d, waits until as many have come as the registry says
// the cluster has, and returns the first of them, as --initial-cluster names them. It tries until ctx ends where the registry does not answer; its
// other errors are JoinErrors.
func Join(ctx context.Context, d *config.Discovery, id shard.NodeID, own string, log *slog.Logger) (string, error) {
	log = log.With("discovery-token", d.Token, "discovery-endpoints", strings.Join(d.Endpoints, ","))
	cli, err := connect(ctx, d)
	if err != nil {
		return "", &JoinError{err}
	}
	r := &registration{kv: cli, watch: cli, timeout: d.RequestTimeout, dir: path.Join(registry, d.Token), id: id.String(), log: log, pause: patience.Pause}
	members, err := r.join(ctx, own)
	err = errors.Join(err, cli.Close())
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		log.Warn("discovery failed to join cluster", "cluster", members, "error", err)
		return "", &JoinError{err}
	}
	log.Info("discovery joined cluster successfully", "cluster", members)
	return members, nil
}

func connect(ctx context.Context, d *config.Discovery) (*clientv3.Client, error) {
	cfg, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{
		Endpoints: d.Endpoints, DialTimeout: d.DialTimeout, RequestTimeout: d.RequestTimeout,
		KeepAliveTime: d.KeepAliveTime, KeepAliveTimeout: d.KeepAliveTimeout,
		Secure: &clientv3.SecureConfig{Cert: d.Cert, Key: d.Key, Cacert: d.CACert, InsecureTransport: d.Insecure, InsecureSkipVerify: d.SkipVerify},
		Auth:   &clientv3.AuthConfig{Username: d.User, Password: d.Password},
	}, zap.NewNop())
	if err != nil {
		return nil, err
	}
	cfg.Context, cfg.Logger = ctx, zap.NewNop()
	return clientv3.New(*cfg)
}

// registration is one member's way into the registry.
type registration struct {
	kv      clientv3.KV
	watch   clientv3.Watcher
	timeout time.Duration // of a request
	dir     string        // of the token
	id      string
	log     *slog.Logger
	pause   func(context.Context, time.Duration) error
	tries   int // in vain, in a row
}

func (r *registration) sizeKey() string       { return path.Join(r.dir, "_config/size") }
func (r *registration) membersPrefix() string { return path.Join(r.dir, "members") }
func (r *registration) ownKey() string        { return path.Join(r.membersPrefix(), r.id) }

// entry is one registered member.
type entry struct {
	key, urls string
	created   int64 // revision
}

func (r *registration) join(ctx context.Context, own string) (string, error) {
	if _, _, _, err := r.check(ctx); err != nil {
		return "", err
	}
	if err := r.register(ctx, own); err != nil {
		return "", err
	}
	for {
		members, size, rev, err := r.check(ctx)
		if err != nil {
			return "", err
		}
		if members = r.await(ctx, members, size, rev); len(members) >= size {
			return asCluster(members[:size])
		}
		// The watch has ended: its history was compacted, or nobody answers. What has come meanwhile is there to be read.
		if err := r.backOff(ctx, "waiting for peers"); err != nil {
			return "", err
		}
	}
}

// asCluster writes members as --initial-cluster does.
func asCluster(members []entry) (string, error) {
	var all []string
	for _, m := range members {
		all = append(all, m.urls)
	}
	text := strings.Join(all, ",")
	if _, err := types.NewURLsMap(text); err != nil {
		return text, ErrInvalidURL
	}
	return text, nil
}

// retry repeats what fails for want of an answer.
func (r *registration) retry(ctx context.Context, step string, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil || errors.Is(err, ErrSizeNotFound) || errors.Is(err, ErrBadSize) {
			r.tries = 0
			return err
		}
		r.log.Warn("the discovery service does not answer", "step", step, "error", err)
		if err := r.backOff(ctx, step); err != nil {
			return err
		}
	}
}

func (r *registration) backOff(ctx context.Context, step string) error {
	r.tries++
	wait := backoffUnit << min(r.tries, doublings)
	r.log.Warn("retry connecting to discovery service", "reason", step, "backoff", wait.String())
	return r.pause(ctx, wait)
}

// check reads who has come, in that order, of how many, at which revision. With ErrFull the node is none of them.
func (r *registration) check(ctx context.Context) (members []entry, size int, rev int64, err error) {
	err = r.retry(ctx, "cluster status check", func(ctx context.Context) error {
		if size, err = r.size(ctx); err != nil {
			return err
		}
		members, rev, err = r.members(ctx)
		return err
	})
	if err != nil {
		return nil, 0, 0, err
	}
	if at := slices.IndexFunc(members, func(e entry) bool { return e.key == r.ownKey() }); at >= size || at < 0 && len(members) >= size {
		return nil, 0, 0, ErrFull
	}
	return members, size, rev, nil
}

func (r *registration) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.kv.Get(ctx, key, opts...)
}

func (r *registration) size(ctx context.Context) (int, error) {
	resp, err := r.get(ctx, r.sizeKey())
	if err != nil {
		return 0, err
	}
	if len(resp.Kvs) == 0 {
		return 0, ErrSizeNotFound
	}
	size, err := strconv.Atoi(string(resp.Kvs[0].Value))
	if err != nil || size <= 0 || size > membersMax {
		return 0, ErrBadSize
	}
	return size, nil
}

func (r *registration) members(ctx context.Context) ([]entry, int64, error) {
	resp, err := r.get(ctx, r.membersPrefix(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(membersMax))
	if err != nil {
		return nil, 0, err
	}
	var out []entry
	for _, kv := range resp.Kvs {
		out = r.add(out, kv)
	}
	return out, resp.Header.Revision, nil
}

// add takes a member in that was not known, in order of its coming.
func (r *registration) add(to []entry, kv *mvccpb.KeyValue) []entry {
	e := entry{key: strings.TrimSpace(string(kv.Key)), urls: strings.TrimSpace(string(kv.Value)), created: kv.CreateRevision}
	switch {
	case !strings.ContainsRune(e.urls, '='):
		r.log.Warn("invalid peer info returned from discovery service", "memberKey", e.key, "memberInfo", e.urls)
	case slices.ContainsFunc(to, func(k entry) bool { return k.key == e.key }):
		r.log.Warn("found duplicate peer from discovery service", "memberKey", e.key, "memberInfo", e.urls)
	case len(to) < membersMax:
		r.log.Info("found peer from discovery service", "memberKey", e.key, "memberInfo", e.urls)
		to = append(to, e)
		slices.SortStableFunc(to, func(a, b entry) int { return int(a.created - b.created) })
	}
	return to
}

func (r *registration) register(ctx context.Context, own string) error {
	err := r.retry(ctx, "register member itself", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		_, err := r.kv.Put(ctx, r.ownKey(), own)
		return err
	})
	if err == nil {
		r.log.Info("register member itself successfully", "memberKey", r.ownKey(), "memberInfo", own)
	}
	return err
}

// await watches until all have come, or the watch ends.
func (r *registration) await(ctx context.Context, members []entry, size int, rev int64) []entry {
	if len(members) >= size {
		return members
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.log.Info("waiting for peers from discovery service", "clusterSize", size, "found-peers", len(members))
	for resp := range r.watch.Watch(ctx, r.membersPrefix(), clientv3.WithPrefix(), clientv3.WithRev(rev+1), clientv3.WithFilterDelete()) {
		for _, ev := range resp.Events {
			members = r.add(members, ev.Kv)
		}
		if len(members) >= size {
			r.log.Info("found all needed peers from discovery service", "clusterSize", size, "found-peers", len(members))
			break
		}
	}
	return members
}
