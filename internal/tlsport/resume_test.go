package tlsport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"golang.org/x/crypto/cryptobyte"

	"pontoon/test/certs"
)

// TestNobodyResumes: no ticket is given, whoever asks, and a client of etcd's asks for none.
func TestNobodyResumes(t *testing.T) {
	w := newWorld(t)
	w.info.TrustedCAFile = w.path("ca.pem")
	addr := serve(t, w.open(t, Client), false)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := w.as(w.issue(t, certs.Options{CN: "me"}))
		cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		cfg.MaxVersion, cfg.ClientSessionCache = version, cache
		for range 2 {
			c := must[*tls.Conn](t)(tls.Dial("tcp", addr, cfg))
			if err := echo(c); err != nil {
				t.Fatal(err)
			}
			if c.ConnectionState().DidResume {
				t.Errorf("%s: resumed", tls.VersionName(version))
			}
			_ = c.Close()
		}
		if cache.put != 0 || cache.asked != 2 {
			t.Errorf("%s: %d tickets, which were asked for %d times", tls.VersionName(version), cache.put, cache.asked)
		}
	}
	if cfg := must[*tls.Config](t)(transport.TLSInfo{TrustedCAFile: w.path("ca.pem")}.ClientConfig()); cfg.ClientSessionCache != nil {
		t.Error("etcd's clients resume sessions now: decision 0064 was made because they do not")
	}
}

// countingCache is for one connection at a time.
type countingCache struct {
	tls.ClientSessionCache
	asked, put int
}

func (c *countingCache) Get(key string) (*tls.ClientSessionState, bool) {
	c.asked++
	return c.ClientSessionCache.Get(key)
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.put++
	}
	c.ClientSessionCache.Put(key, s)
}

// TestATicketKeyIsEveryCertificate: if endpoints gave tickets, whoever knew their key would be let in as any client whose certificate he has seen, without its
// key, and be known by its name. So a key that is less guarded than the authority's weakens certificates (decision 0064).
func TestATicketKeyIsEveryCertificate(t *testing.T) {
	w := newWorld(t)
	w.info.TrustedCAFile = w.path("ca.pem")
	e := w.open(t, Client)
	key := [32]byte{7}
	e.server.SessionTicketsDisabled = false
	e.server.SetSessionTicketKeys([][32]byte{key})
	l := e.Listen(must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), false)
	defer func() { _ = l.Close() }()

	victim := w.issue(t, certs.Options{CN: "root"})
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	thief := &tls.Config{}
	thief.SetSessionTicketKeys([][32]byte{key})
	ticket := must[[]byte](t)(thief.EncryptTicket(tls.ConnectionState{}, w.session(t, 1, secret, victim)))
	resumed := must[*tls.ClientSessionState](t)(tls.NewResumptionState(ticket, w.session(t, 2, secret, w.pair)))
	cfg := &tls.Config{ServerName: "127.0.0.1", RootCAs: w.ca.Pool(), ClientSessionCache: oneSession{resumed}}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		if c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", l.Addr().String()); err == nil {
			<-ctx.Done()
			_ = c.Close()
		}
	}()
	c := must[net.Conn](t)(l.Accept())
	defer func() { _ = c.Close() }()
	state := c.(*tls.Conn).ConnectionState()
	if len(state.PeerCertificates) == 0 || state.PeerCertificates[0].Subject.CommonName != "root" {
		t.Errorf("who has no key is %v", state.PeerCertificates)
	}
}

// oneSession is all that a client has.
type oneSession struct{ is *tls.ClientSessionState }

func (o oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.is, true }
func (oneSession) Put(string, *tls.ClientSessionState)          {}

// session is one of TLS 1.3 that never was, for the server (1) or the client (2), with who of the other side's certificate.
func (w *world) session(t *testing.T, side uint8, secret []byte, who *certs.Pair) *tls.SessionState {
	t.Helper()
	now := uint64(time.Now().Unix())
	var b cryptobyte.Builder
	b.AddUint16(tls.VersionTLS13)
	b.AddUint8(side)
	b.AddUint16(tls.TLS_AES_128_GCM_SHA256)
	b.AddUint64(now)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(secret) })
	b.AddUint24(0) // nothing extra
	b.AddUint16(0) // no extended secret, no early data
	text := func(der []byte) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
		}
	}
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		text(who.Leaf.Raw)(b)
		b.AddUint16(0)
	})
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint24LengthPrefixed(text(w.ca.Raw())) })
	if side == 2 {
		b.AddUint64(now + 3600)
		b.AddUint32(0)
	}
	return must[*tls.SessionState](t)(tls.ParseSessionState(must[[]byte](t)(b.Bytes())))
}
