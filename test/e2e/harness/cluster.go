package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is what the processes are.
type Kind string

// The kinds of servers.
const (
	Pontoon Kind = "pontoon"
	Etcd    Kind = "etcd"
)

// Options describe a cluster.
type Options struct {
	Kind   Kind
	Binary string // of the server
	Dir    string // for data and logs; must exist
	Nodes  int

	// SplitKeys and Ranges cut the key space; they are not told to etcd.
	SplitKeys []string
	Ranges    int

	// Places are where nodes run; none: here, on loopback.
	Places []Place

	// Within returns a command to which a node's own is given as arguments and which takes on its process;
	// nil: none.
	Within func(node int) []string

	// ClientScheme and PeerScheme are those of the URLs; default http.
	ClientScheme, PeerScheme string

	// Args come after all others, on every node.
	Args []string
	// Env is added to every node's environment.
	Env []string
	// ClientPorts and PeerPorts are fixed ports; none: free ones.
	ClientPorts, PeerPorts []int
	// Echo gets the output of all nodes, too, if not nil. It must take concurrent writes.
	Echo io.Writer
}

// Place is a machine, or what looks like one, for a node.
type Place struct {
	IP string
	// Do runs a function that starts a process so that the process is there.
	Do func(func() error) error
}

// Cluster is a set of nodes that know each other.
type Cluster struct {
	Kind  Kind
	Dir   string
	Nodes []*Node
	// Gateways serve clients of the nodes, and hold nothing.
	Gateways []*Node
}

// one set for the program: clusters may be made concurrently.
var ports handedOut

// New describes the nodes of a cluster; nothing runs yet.
func New(o Options) (*Cluster, error) {
	c := &Cluster{Kind: o.Kind, Dir: o.Dir}
	for i := range o.Nodes {
		ip, do := loopback(), func(start func() error) error { return start() }
		if i < len(o.ClientPorts) {
			ip = "127.0.0.1" // where people expect them
		}
		if i < len(o.Places) {
			ip, do = o.Places[i].IP, o.Places[i].Do
		}
		client, err := port(o.ClientPorts, i)
		if err != nil {
			return nil, err
		}
		peer, err := port(o.PeerPorts, i)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("n%d", i+1)
		n := &Node{
			Name: name, binary: o.Binary, env: o.Env, echo: o.Echo, place: do,
			ClientURL: fmt.Sprintf("%s://%s:%d", cmp.Or(o.ClientScheme, "http"), ip, client),
			PeerURL:   fmt.Sprintf("%s://%s:%d", cmp.Or(o.PeerScheme, "http"), ip, peer),
			DataDir:   filepath.Join(o.Dir, name),
			LogFile:   filepath.Join(o.Dir, name+".log"),
		}
		if o.Within != nil {
			n.within = o.Within(i)
		}
		c.Nodes = append(c.Nodes, n)
	}
	initial := InitialCluster(c.Nodes...)
	for _, n := range c.Nodes {
		n.Args = n.arguments(initial, "new", "token-"+filepath.Base(o.Dir))
		if o.Kind == Pontoon && len(o.SplitKeys) > 0 {
			n.Args = append(n.Args, "--initial-split-keys", strings.Join(o.SplitKeys, ","))
		}
		if o.Kind == Pontoon && o.Ranges > 0 {
			n.Args = append(n.Args, "--initial-ranges", fmt.Sprint(o.Ranges))
		}
		n.Args = append(n.Args, o.Args...)
	}
	return c, nil
}

func (n *Node) arguments(initial, state, token string) []string {
	return []string{
		"--name", n.Name, "--data-dir", n.DataDir,
		"--listen-client-urls", n.ClientURL, "--advertise-client-urls", n.ClientURL,
		"--listen-peer-urls", n.PeerURL, "--initial-advertise-peer-urls", n.PeerURL,
		"--initial-cluster", initial, "--initial-cluster-state", state,
		"--initial-cluster-token", token,
	}
}

// AddNode describes one more node like the first; nothing runs yet. Its Args are Joins' to set.
func (c *Cluster) AddNode(name string) (*Node, error) { return c.AddNodeAt(Place{}, name) }

// AddNodeAt is AddNode at a place of its own; the zero one is that of the first node.
func (c *Cluster) AddNodeAt(at Place, name string) (*Node, error) {
	client, err := ports.next()
	if err != nil {
		return nil, err
	}
	peer, err := ports.next()
	if err != nil {
		return nil, err
	}
	like := c.Nodes[0]
	u, err := url.Parse(like.ClientURL)
	if err != nil {
		return nil, err
	}
	pu, err := url.Parse(like.PeerURL)
	if err != nil {
		return nil, err
	}
	if at.Do == nil {
		at = Place{IP: u.Hostname(), Do: like.place}
	}
	n := &Node{
		Name: name, binary: like.binary, env: like.env, echo: like.echo, place: at.Do,
		ClientURL: fmt.Sprintf("%s://%s:%d", u.Scheme, at.IP, client), PeerURL: fmt.Sprintf("%s://%s:%d", pu.Scheme, at.IP, peer),
		DataDir: filepath.Join(c.Dir, name), LogFile: filepath.Join(c.Dir, name+".log"),
	}
	c.Nodes = append(c.Nodes, n)
	return n, nil
}

// AddGateway describes a gateway in front of all nodes; nothing runs yet. args come after its own.
func (c *Cluster) AddGateway(name string, args ...string) (*Node, error) {
	return c.AddGatewayAt(Place{}, name, args...)
}

// AddGatewayAt is AddGateway at a place of its own; the zero one is that of the first node.
func (c *Cluster) AddGatewayAt(at Place, name string, args ...string) (*Node, error) {
	client, err := ports.next()
	if err != nil {
		return nil, err
	}
	like := c.Nodes[0]
	u, err := url.Parse(like.ClientURL)
	if err != nil {
		return nil, err
	}
	var join []string
	for _, n := range c.Nodes {
		join = append(join, n.PeerURL)
	}
	if at.Do == nil {
		at = Place{IP: u.Hostname(), Do: like.place}
	}
	n := &Node{
		Name: name, binary: like.binary, env: like.env, echo: like.echo, place: at.Do,
		ClientURL: fmt.Sprintf("%s://%s:%d", u.Scheme, at.IP, client), LogFile: filepath.Join(c.Dir, name+".log"),
	}
	n.Args = append([]string{
		"--role", "gateway", "--name", name, "--join", strings.Join(join, ","),
		"--listen-client-urls", n.ClientURL, "--advertise-client-urls", n.ClientURL,
	}, args...)
	c.Gateways = append(c.Gateways, n)
	return n, nil
}

// PassesOn has a gateway that does not run yet listen at its PeerURL for gateways that are Behind it, by what members call each other with.
func (c *Cluster) PassesOn(g *Node) error {
	port, err := ports.next()
	if err != nil {
		return err
	}
	at, err := url.Parse(g.ClientURL)
	if err != nil {
		return err
	}
	like, err := url.Parse(c.Nodes[0].PeerURL)
	if err != nil {
		return err
	}
	g.PeerURL = fmt.Sprintf("%s://%s:%d", like.Scheme, at.Hostname(), port)
	g.Args = append(g.Args, "--listen-peer-urls", g.PeerURL)
	return nil
}

// Behind has a gateway that does not run yet have its feeds from others, which were told that they pass feeds on.
func (n *Node) Behind(upstreams ...*Node) {
	var all []string
	for _, u := range upstreams {
		all = append(all, u.PeerURL)
	}
	n.Args = append(n.Args, "--upstream", strings.Join(all, ","))
}

// InitialCluster names nodes and where their peers find them, as --initial-cluster wants it.
func InitialCluster(nodes ...*Node) string {
	all := make([]string, 0, len(nodes))
	for _, n := range nodes {
		all = append(all, n.Name+"="+n.PeerURL)
	}
	return strings.Join(all, ",")
}

// Joins makes a node one that joins a cluster with the given members, as etcdctl prints them.
func (n *Node) Joins(initial string) { n.Args = n.arguments(initial, "existing", "") }

func port(fixed []int, i int) (int, error) {
	if i < len(fixed) {
		return fixed[i], nil
	}
	return ports.next()
}

// Start starts all nodes at once and waits until all are ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// WaitReady waits until all running nodes have said so.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// KillAll kills all nodes at the same moment.
func (c *Cluster) KillAll() error {
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = n.Kill()
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// StopAll stops all running nodes with SIGTERM, those that do not end in time with SIGKILL.
func (c *Cluster) StopAll(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, _, err := n.Stop(ctx); err != nil {
				errs[i] = errors.Join(err, n.Kill())
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close ends every process. Data and logs stay.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range slices.Concat(c.Gateways, c.Nodes) {
		if n.Running() {
			errs = append(errs, n.Kill())
		}
	}
	return errors.Join(errs...)
}

// Endpoints are the client URLs of all nodes.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.ClientURL)
	}
	return out
}

// Remove deletes data and logs of a cluster that does not run any more.
func (c *Cluster) Remove() error { return os.RemoveAll(c.Dir) }
