package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// linkGateway describes a gateway that has its feeds from others, if there are any, and passes feeds on.
func linkGateway(t *testing.T, c *harness.Cluster, name string, upstreams ...*harness.Node) *harness.Node {
	t.Helper()
	g, err := c.AddGateway(name)
	if err == nil {
		err = c.PassesOn(g)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(upstreams) > 0 {
		g.Behind(upstreams...)
	}
	return g
}

// awaitListed waits until a gateway tells of itself what is wanted.
func awaitListed(ctx context.Context, t *testing.T, n *harness.Node, name, what string, fits func(g listedGateway) bool) {
	t.Helper()
	eventually(t, limit(20*time.Second), name+": "+what, func() error {
		all, err := listGateways(ctx, n)
		if err != nil {
			return err
		}
		for _, g := range all {
			if g.Name == name && fits(g) {
				return nil
			}
		}
		return fmt.Errorf("listed are %+v", all)
	})
}

// upstreamFeeds is how many feeds a gateway has from others.
func upstreamFeeds(g listedGateway) (n int64) {
	for _, u := range g.Upstreams {
		n += u.Feeds
	}
	return n
}

func refusals(g listedGateway) string {
	var all []string
	for _, u := range g.Upstreams {
		all = append(all, u.Refused)
	}
	return strings.Join(all, "; ")
}

// TestGatewayChain: a watcher of everything behind two gateways, one behind the other, has each event once and in order, while ranges are cut and merged and
// while the gateway in between is killed and comes back, and members are asked for no feeds as long as it is there.
func TestGatewayChain(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(4*time.Minute))
	one := linkGateway(t, c, "g1")
	restartGateway(t, one)
	two := linkGateway(t, c, "g2", one)
	restartGateway(t, two)
	awaitListed(ctx, t, c.Nodes[0], "g2", "has found the other one", func(g listedGateway) bool { return g.Level == 2 })
	rec := newRecorder()
	watcher := newClient(t, c, two.ClientURL)
	watching := rec.watch(ctx, watcher)
	go askProgress(ctx, watcher)
	cl := newClient(t, c)
	w := startWriters(ctx, t, c, "k/gate")
	for i := range 6 {
		split(ctx, t, c, fmt.Sprintf("k/gate/%02d", 10*i+1))
	}
	rec.waitFor(t, w.newest(), limit(20*time.Second))
	awaitListed(ctx, t, c.Nodes[0], "g2", "has the feeds of all ranges from the other one", func(g listedGateway) bool { return upstreamFeeds(g) >= 7 })
	if n := metric(ctx, t, two, "pontoon_links"); n != 1 {
		t.Errorf("%v links bring feeds to the second gateway", n)
	}
	for i := range 3 {
		merge(ctx, t, c, fmt.Sprintf("k/gate/%02d", 20*i+1))
	}
	rec.waitFor(t, w.newest(), limit(20*time.Second))

	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, w.newest(), limit(20*time.Second))
	split(ctx, t, c, "k/gate/05")
	rec.waitFor(t, w.newest(), limit(20*time.Second))
	restartGateway(t, one)
	awaitListed(ctx, t, c.Nodes[0], "g2", "has found the other one again", func(g listedGateway) bool { return g.Level == 2 && g.Upstreams[0].Gateway != 0 })
	split(ctx, t, c, "k/gate/15")
	w.finish(ctx, t, cl, false)
	last := w.revs[len(w.revs)-1]
	rec.waitFor(t, last, limit(30*time.Second))
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	checkState(ctx, t, cl, h, last)
}

// TestGatewayRing: gateways that are told to feed each other do not, which is said where gateways are listed, and what they need comes from members.
func TestGatewayRing(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(3*time.Minute))
	one := linkGateway(t, c, "g1")
	two := linkGateway(t, c, "g2", one)
	one.Behind(two)
	restartGateway(t, one)
	restartGateway(t, two)
	recs := map[*harness.Node]*recorder{one: newRecorder(), two: newRecorder()}
	for g, rec := range recs {
		defer rec.watch(ctx, newClient(t, c, g.ClientURL)).stop(t)
	}
	eventually(t, limit(30*time.Second), "one of them refuses the other", func() error {
		all, err := listGateways(ctx, c.Nodes[0])
		refuse := 0
		for _, g := range all {
			if strings.Contains(refusals(g), "in a ring") {
				refuse++
			}
		}
		if err == nil && refuse != 1 {
			err = fmt.Errorf("%d refuse: %+v", refuse, all)
		}
		return err
	})
	cl := newClient(t, c)
	for i := range 20 {
		put, err := cl.Put(ctx, fmt.Sprint("k/", i), "v")
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			rec.waitFor(t, put.Header.Revision, limit(20*time.Second))
		}
	}
}

// TestGatewayLevels: four gateways may stand one behind the other. The fifth has its feeds from members, and says why.
func TestGatewayLevels(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(3*time.Minute))
	g := linkGateway(t, c, "g1")
	restartGateway(t, g)
	for i := 2; i <= 5; i++ {
		name := fmt.Sprintf("g%d", i)
		g = linkGateway(t, c, name, g)
		restartGateway(t, g)
		awaitListed(ctx, t, c.Nodes[0], name, "knows its place", func(g listedGateway) bool {
			if i == 5 {
				return g.Level == 1 && strings.Contains(refusals(g), "the last of 4 gateways")
			}
			return g.Level == uint32(i) && refusals(g) == ""
		})
	}
	rec := newRecorder()
	watching := rec.watch(ctx, newClient(t, c, g.ClientURL, c.Gateways[3].ClientURL))
	put, err := newClient(t, c, c.Gateways[3].ClientURL).Put(ctx, "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, put.Header.Revision, limit(20*time.Second))
	watching.stop(t)
	if _, code, err := g.Stop(ctx); err != nil || code != 0 {
		t.Errorf("stopped with %d, %v", code, err)
	}
	bad := startGateway(t, c, "g6", "--upstream", c.Nodes[0].PeerURL)
	awaitListed(ctx, t, c.Nodes[0], bad.Name, "says that a member is none", func(g listedGateway) bool { return strings.Contains(refusals(g), "--join") })
	if err := errors.Join(bad.Kill()); err != nil {
		t.Fatal(err)
	}
}

// TestGatewayChainTLS: gateways that feed each other ask for certificates as members do: who has none, or one of another authority, hears nothing at their peer
// ports, whoever is behind them has its feeds from there, by one link, and has them there again once the first one has been killed.
func TestGatewayChainTLS(t *testing.T) {
	pontoonOnly(t)
	tr := newTrust(t)
	c := tr.mutual(3)
	me := tr.issue("me", certs.Options{CN: "me"})
	ctx := testContext(t, limit(2*time.Minute))
	start(t, c)
	gates := []*harness.Node{linkGateway(t, c, "g1")}
	gates = append(gates, linkGateway(t, c, "g2", gates[0]))
	for i, g := range gates {
		cert, key, ca := tr.path(c.Nodes[i].Name+".pem"), tr.path(c.Nodes[i].Name+".key"), tr.path("ca.pem")
		g.Args = append(g.Args, "--cert-file="+cert, "--key-file="+key, "--client-cert-auth", "--trusted-ca-file="+ca,
			"--peer-cert-file="+cert, "--peer-key-file="+key, "--peer-client-cert-auth", "--peer-trusted-ca-file="+ca)
		restartGateway(t, g)
	}
	by := &http.Client{Transport: &http.Transport{TLSClientConfig: tr.config(me)}}
	behind := func() {
		t.Helper()
		eventually(t, limit(20*time.Second), "the second gateway has feeds from the first", func() error {
			all, err := listGatewaysBy(ctx, by, c.Nodes[0])
			for _, g := range all {
				if g.Name == "g2" && g.Level == 2 && upstreamFeeds(g) > 0 {
					return nil
				}
			}
			return errors.Join(err, fmt.Errorf("listed are %+v", all))
		})
	}
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{gates[1].ClientURL}, TLS: tr.config(me), DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	rec := newRecorder()
	watching := rec.watch(ctx, cl)
	write := func(value string) {
		t.Helper()
		put, err := cl.Put(ctx, "a", value)
		if err != nil {
			t.Fatal(err)
		}
		rec.waitFor(t, put.Header.Revision, limit(20*time.Second))
	}
	write("1")
	behind()
	write("2")
	other := newTrust(t)
	them := other.issue("them", certs.Options{CN: "them"})
	for what, cfg := range map[string]*tls.Config{"no certificate": tr.config(nil), "one of another authority": tr.config(them), "the right one": tr.config(me)} {
		if err := heardAt(ctx, gates[0].PeerURL, cfg); (err == nil) != (what == "the right one") {
			t.Errorf("a client with %s: %v", what, err)
		}
	}
	if err := heardAt(ctx, gates[0].PeerURL, nil); err == nil {
		t.Error("a client without TLS is answered")
	}
	if err := gates[0].Kill(); err != nil {
		t.Fatal(err)
	}
	write("3")
	restartGateway(t, gates[0])
	behind()
	write("4")
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
}

// heardAt begins HTTP/2 at a URL's address, and waits for the other end's first frame. cfg nil: without TLS.
func heardAt(ctx context.Context, at string, cfg *tls.Config) error {
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit(5*time.Second))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
	}
	if cfg != nil {
		cfg = cfg.Clone()
		cfg.NextProtos, cfg.ServerName = []string{"h2"}, u.Hostname()
		conn = tls.Client(conn, cfg)
	}
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if head[3] != 4 {
		return fmt.Errorf("it begins with % x, which are no settings", head)
	}
	return nil
}
