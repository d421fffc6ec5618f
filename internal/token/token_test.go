package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"pontoon/internal/auth"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/internal/tlsport"
	"pontoon/shard"
)

// cluster is a view with root and alice, where authentication is on.
func cluster(t testing.TB, more ...*pb.MetaAuth) *auth.View {
	t.Helper()
	s := auth.New()
	for _, e := range append([]*pb.MetaAuth{
		{Change: uint32(auth.UserAdd), User: auth.Root}, {Change: uint32(auth.UserGrantRole), User: auth.Root, Role: auth.Root},
		{Change: uint32(auth.UserAdd), User: "alice"}, {Change: uint32(auth.Enable), TokenKey: []byte("the key that members share")},
	}, more...) {
		var err error
		if s, err = s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return auth.NewView(s)
}

// clock is a wall clock that stands.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func simple(t testing.TB, c *clock) *Tokens {
	t.Helper()
	tokens, err := New(Config{Spec: "simple", Now: c.read})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// TestSealed: any node opens a token, and none that is not as it was made.
func TestSealed(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	v := cluster(t)
	token, err := simple(t, c).Issue(v, "alice")
	if err != nil {
		t.Fatal(err)
	}
	body, number, _ := strings.Cut(token, ".")
	if len(body) < 16 || number != "1000000" {
		t.Errorf("%s does not look like etcd's", token)
	}
	elsewhere := simple(t, c)
	if who, err := elsewhere.Open(v, token); err != nil || who.Name != "alice" || !who.Known || who.Dated {
		t.Fatal(who, err)
	}
	for i := range token {
		for _, with := range []string{"", "A", "b", "7", ".", "=", "\x00", "\n" + token[i:i+1]} {
			wrong := token[:i] + with + token[i+1:]
			if _, err := elsewhere.Open(v, wrong); wrong != token && !errors.Is(err, shard.ErrInvalidAuthToken) {
				t.Fatalf("%q at %d of %s: %v", with, i, token, err)
			}
		}
	}
	for _, wrong := range []string{"", ".", token + "0", "0" + token, body, body + ".-1", body + ".+1000000", body + ".01000000", strings.Repeat("a", sealedBytesMax+1), body + "==." + number} {
		if _, err := elsewhere.Open(v, wrong); !errors.Is(err, shard.ErrInvalidAuthToken) {
			t.Errorf("%.40q: %v", wrong, err)
		}
	}
	other := cluster(t, &pb.MetaAuth{Change: uint32(auth.Disable), Actor: auth.Root}, &pb.MetaAuth{Change: uint32(auth.Enable), TokenKey: []byte("another key")})
	if _, err := elsewhere.Open(other, token); !errors.Is(err, shard.ErrInvalidAuthToken) {
		t.Errorf("after authentication was off: %v", err)
	}
	changed := cluster(t, &pb.MetaAuth{Change: uint32(auth.UserChangePassword), Actor: auth.Root, User: "alice"})
	if _, err := elsewhere.Open(changed, token); !errors.Is(err, shard.ErrInvalidAuthToken) {
		t.Errorf("after the password was changed: %v", err)
	}
	if _, err := elsewhere.Issue(auth.NewView(auth.New()), "alice"); !errors.Is(err, shard.ErrAuthNotEnabled) {
		t.Errorf("a login while authentication is off: %v", err)
	}
}

// TestSealedTime: a token is valid for its time, and for as long after it was last used.
func TestSealedTime(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	v := cluster(t)
	here, there := simple(t, c), simple(t, c)
	token, _ := here.Issue(v, "alice")
	valid := func(node *Tokens) bool {
		_, err := node.Open(v, token)
		return err == nil
	}
	for range 5 {
		c.now = c.now.Add(DefaultTTL - time.Second)
		if !valid(here) {
			t.Fatal("it was used, and is over")
		}
	}
	if valid(there) {
		t.Error("it is valid where it was not used")
	}
	c.now = c.now.Add(DefaultTTL)
	if valid(here) || valid(here) {
		t.Error("it is valid though it was not used")
	}
	if n := len(here.sealed.used); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

// TestSealedMany: what is remembered is bounded, and whoever does not fit has the time that every token has.
func TestSealedMany(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	s := newSealer(DefaultTTL, c.read)
	use := func(n int, issued time.Time) bool { return s.use(seal{byte(n), byte(n >> 8), byte(n >> 16)}, issued) }
	for i := range usedMax + 10 {
		if !use(i, c.now) {
			t.Fatal(i)
		}
	}
	if len(s.used) != usedMax {
		t.Fatalf("%d are remembered", len(s.used))
	}
	first := c.now
	c.now = c.now.Add(DefaultTTL - time.Second)
	if !use(usedMax+1, first) {
		t.Error("one that did not fit is over before its time")
	}
	c.now = c.now.Add(2 * time.Second)
	if use(usedMax+1, first) {
		t.Error("one that did not fit is valid after its time")
	}
	if !use(usedMax+2, c.now) || len(s.used) != 1 {
		t.Errorf("%d are remembered after all have expired", len(s.used))
	}
}

func writePEM(t *testing.T, dir, name, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pair writes a key pair.
func pair(t *testing.T, name string, priv privateKey) (pubFile, privFile string) {
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	privFile = writePEM(t, dir, name, "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(priv.Public())
	return writePEM(t, dir, name+".pub", "PUBLIC KEY", der, err), privFile
}

// TestSigned: with every method of etcd's, both keys, the private one and the public one do what they can.
func TestSigned(t *testing.T) {
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	keys := map[string]privateKey{"RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey, "PS512": rsaKey, "EdDSA": edKey}
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	v := cluster(t)
	for method, key := range keys {
		pub, priv := pair(t, method, key)
		made := func(options string) *Tokens {
			t.Helper()
			tokens, err := New(Config{Spec: "jwt,sign-method=" + method + options})
			if err != nil {
				t.Fatalf("%s%s: %v", method, options, err)
			}
			return tokens
		}
		token, err := made(",priv-key="+priv).Issue(v, "alice")
		if err != nil {
			t.Fatal(method, err)
		}
		for _, options := range []string{",priv-key=" + priv, ",pub-key=" + pub + ",priv-key=" + priv, ",pub-key=" + pub} {
			if who, err := made(options).Open(v, token); err != nil || who != (shard.Who{Name: "alice", Known: true, Dated: true, Revision: v.Revision()}) {
				t.Errorf("%s%s: %v, %v", method, options, who, err)
			}
		}
		if _, err := made(",pub-key="+pub).Issue(v, "alice"); !errors.Is(err, errVerifyOnly) {
			t.Errorf("%s without a key to sign with: %v", method, err)
		}
	}
}

// TestSignedRefused: another method, another key, no time left, and what does not say what it must.
func TestSignedRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &clock{time.Now()}
	tokens, err := New(Config{Spec: "jwt,sign-method=HS256,priv-key=" + file + ",ttl=1m", Now: c.read})
	if err != nil {
		t.Fatal(err)
	}
	v := cluster(t)
	good, _ := tokens.Issue(v, "alice")
	if _, err := tokens.Open(v, good); err != nil {
		t.Fatal(err)
	}
	sign := func(m jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		text, err := jwt.NewWithClaims(m, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	secret := []byte("a secret")
	whole := jwt.MapClaims{"username": "root", "revision": 9}
	for name, text := range map[string]string{
		"of no method":          sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, whole),
		"of another method":     sign(jwt.SigningMethodHS512, secret, whole),
		"of another key":        sign(jwt.SigningMethodHS256, []byte("another"), whole),
		"of nobody":             sign(jwt.SigningMethodHS256, secret, jwt.MapClaims{"revision": 9}),
		"of no revision":        sign(jwt.SigningMethodHS256, secret, jwt.MapClaims{"username": "root"}),
		"of a revision below":   sign(jwt.SigningMethodHS256, secret, jwt.MapClaims{"username": "root", "revision": -1}),
		"of a revision as text": sign(jwt.SigningMethodHS256, secret, jwt.MapClaims{"username": "root", "revision": "9"}),
		"that has expired":      sign(jwt.SigningMethodHS256, secret, jwt.MapClaims{"username": "root", "revision": 9, "exp": c.now.Unix() - 1}),
		"that is cut off":       good[:len(good)-1],
		"that is sealed":        "abcdefghijklmnop.7",
		"that is none":          "",
	} {
		if _, err := tokens.Open(v, text); !errors.Is(err, shard.ErrInvalidAuthToken) {
			t.Errorf("a token %s: %v", name, err)
		}
	}
	c.now = c.now.Add(61 * time.Second)
	if _, err := tokens.Open(v, good); !errors.Is(err, shard.ErrInvalidAuthToken) {
		t.Errorf("after its time: %v", err)
	}
}

// TestSpec: what the flag says is checked at the start.
func TestSpec(t *testing.T) {
	dir := t.TempDir()
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := rsa.GenerateKey(rand.Reader, 2048)
	pub, priv := pair(t, "one", one)
	otherPub, _ := pair(t, "two", two)
	empty := filepath.Join(dir, "empty")
	_ = os.WriteFile(empty, nil, 0o600)
	for spec, ok := range map[string]bool{
		"simple": true, "": true, "simple,a=b": true, "jwt": false, "fancy": false, "jwt,sign-method=RS256": false,
		"jwt,sign-method=RS256,priv-key=" + priv: true, "jwt,sign-method=RS256,pub-key=" + pub + ",priv-key=" + priv: true,
		"jwt,sign-method=RS256,pub-key=" + otherPub + ",priv-key=" + priv: false, "jwt,sign-method=none,priv-key=" + priv: false,
		"jwt,sign-method=HS256,priv-key=" + empty: false, "jwt,sign-method=ES256,priv-key=" + priv: false,
		"jwt,sign-method=RS256,priv-key=" + priv + ",ttl=soon": false, "jwt,sign-method=RS256,sign-method=RS256": false,
		"jwt,sign-method": false, "jwt,a=b=c": false, "jwt,sign-method=RS256,priv-key=" + dir + "/none": false,
		"jwt,sign-method=RS256,fancy=1,priv-key=" + priv: true,
	} {
		if _, err := New(Config{Spec: spec}); (err == nil) != ok {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

// TestWho: a token goes before a certificate, and a certificate counts only where it is the client's own and names count.
func TestWho(t *testing.T) {
	c := &clock{time.Unix(1_000_000, 0)}
	v := cluster(t)
	plain := simple(t, c)
	byName, _ := New(Config{Spec: "simple", CertificateNames: true, Now: c.read})
	token, _ := plain.Issue(v, "alice")
	info := &tlsport.Info{}
	info.State = tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}, {{Subject: pkix.Name{CommonName: "bob"}}}}}
	certified := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: info})
	with := func(ctx context.Context, pairs ...string) context.Context {
		return metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...))
	}
	for _, q := range []struct {
		name   string
		tokens *Tokens
		ctx    context.Context
		who    string
		known  bool
		err    error
	}{
		{"nothing", byName, t.Context(), "", false, nil},
		{"a token", plain, with(t.Context(), "token", token), "alice", true, nil},
		{"authorization", plain, with(t.Context(), "authorization", token), "alice", true, nil},
		{"bearer", plain, with(t.Context(), "authorization", "Bearer "+token), "alice", true, nil},
		{"both", plain, with(t.Context(), "authorization", "nonsense", "token", token), "alice", true, nil},
		{"two tokens", plain, with(t.Context(), "token", "nonsense", "token", token), "", false, shard.ErrInvalidAuthToken},
		{"a certificate", byName, certified, "bob", true, nil},
		{"a certificate whose name does not count", plain, certified, "", false, nil},
		{"a certificate with a token", byName, with(certified, "token", token), "alice", true, nil},
		{"a certificate with a wrong token", byName, with(certified, "token", "nonsense"), "", false, shard.ErrInvalidAuthToken},
		{"a certificate of the gateway", byName, with(certified, "grpcgateway-accept", "*/*"), "", false, nil},
		{"a token by the gateway", byName, with(certified, "grpcgateway-accept", "*/*", "authorization", token), "alice", true, nil},
	} {
		who, err := q.tokens.Who(q.ctx, v)
		if who.Name != q.who || who.Known != q.known || !errors.Is(err, q.err) {
			t.Errorf("%s: %+v, %v", q.name, who, err)
		}
	}
	if who, err := byName.Who(with(certified, "token", "nonsense"), auth.NewView(auth.New())); who.Known || err != nil {
		t.Errorf("while authentication is off: %v, %v", who, err)
	}
}

func TestPasswords(t *testing.T) {
	p := NewPasswords(1, slog.New(slog.DiscardHandler)) // too cheap: bcrypt's own
	if p.cost != 10 {
		t.Errorf("cost %d", p.cost)
	}
	p = NewPasswords(4, slog.New(slog.DiscardHandler))
	hash, err := p.Hash(t.Context(), "secret")
	if err != nil || strings.Contains(string(hash), "secret") {
		t.Fatal(err)
	}
	if p.Check(t.Context(), hash, "secret") != nil || !errors.Is(p.Check(t.Context(), hash, "Secret"), shard.ErrAuthFailed) || !errors.Is(p.Check(t.Context(), nil, ""), shard.ErrAuthFailed) {
		t.Error("a wrong password is right")
	}
	if _, err := p.Hash(t.Context(), strings.Repeat("x", 73)); err == nil || err.Error() != "bcrypt: password length exceeds 72 bytes" {
		t.Error(err)
	}
	for range cap(p.waiting) {
		p.waiting <- struct{}{}
	}
	if err := p.Check(t.Context(), hash, "secret"); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Error(err)
	}
}

// FuzzSealed: whatever is taken for a token is one that looks exactly so.
func FuzzSealed(f *testing.F) {
	c := &clock{time.Unix(1_000_000, 0)}
	v := cluster(f)
	credential, _ := v.Credential("alice")
	token := (&sealed{name: "alice", credential: credential, issued: c.now.Unix()}).text(v.TokenKey()) // the same in every process of a fuzzer
	f.Add(token)
	f.Add("abcdefghijklmnop.7")
	f.Add("000000\n00000000000000000000000000000.0")
	f.Fuzz(func(t *testing.T, text string) {
		s, code, ok := parse(text)
		if !ok {
			return
		}
		raw := append(append(append([]byte{}, s.random[:]...), code[:]...), appendVarint(s)...)
		if again := encoding.EncodeToString(raw) + "." + text[strings.IndexByte(text, '.')+1:]; again != text {
			t.Fatalf("%q is read as %q", text, again)
		}
		if _, err := simple(t, c).Open(v, text); err == nil && text != token {
			t.Fatalf("%q is taken for a token", text)
		}
	})
}

func appendVarint(s sealed) []byte {
	text := s.text(nil)
	raw, _ := encoding.DecodeString(text[:strings.IndexByte(text, '.')])
	return raw[randomBytes+sealBytes:]
}

func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	t.Run("rules", func(t *testing.T) {
		t.Run("sealed", TestSealed)
		t.Run("time", TestSealedTime)
	})
}

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.TokenNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^TestMutant$")
}
