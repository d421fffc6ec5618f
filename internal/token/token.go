package token

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"pontoon/internal/auth"
	"pontoon/internal/tlsport"
	"pontoon/shard"
)

// DefaultTTL is for how long a sealed token is valid that is not used, where nothing else is said.
const DefaultTTL = 300 * time.Second

// Config says what tokens a node makes and takes.
type Config struct {
	// Spec is --auth-token: "simple", "jwt,option=value,…", or empty: no token is made or taken.
	Spec string
	// TTL is --auth-token-ttl, of sealed tokens. Default DefaultTTL.
	TTL time.Duration
	// CertificateNames lets the common name of a client's certificate name a user.
	CertificateNames bool
	// Now is the wall clock. Default time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Tokens says who requests come from. Any number of goroutines may use it.
type Tokens struct {
	sealed *sealer // nil: no sealed tokens
	signed *signer // nil: no signed ones
	certs  bool
}

// New checks the configuration. Its errors are those with which etcd ends.
func New(cfg Config) (*Tokens, error) {
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	kind, options, err := parseSpec(cfg.Spec)
	if err != nil {
		return nil, err
	}
	t := &Tokens{certs: cfg.CertificateNames}
	switch kind {
	case "simple":
		t.sealed = newSealer(cfg.TTL, cfg.Now)
	case "jwt":
		for option := range options {
			if !signerOptions[option] {
				cfg.Logger.Warn("unknown JWT options", "keys", option)
			}
		}
		if t.signed, err = newSigner(options, cfg.Now); err != nil {
			return nil, fmt.Errorf("%w: %w", errOptions, err)
		}
	case "":
	default:
		return nil, errOptions
	}
	return t, nil
}

var signerOptions = map[string]bool{"sign-method": true, "pub-key": true, "priv-key": true, "ttl": true}

// parseSpec takes the flag apart.
func parseSpec(spec string) (kind string, options map[string]string, err error) {
	kind, rest, more := strings.Cut(spec, ",")
	options = map[string]string{}
	for more {
		var pair string
		pair, rest, more = strings.Cut(rest, ",")
		parts := strings.Split(pair, "=")
		if len(parts) != 2 {
			return "", nil, errOptions
		}
		if _, twice := options[parts[0]]; twice {
			return "", nil, errOptions
		}
		options[parts[0]] = parts[1]
	}
	return kind, options, nil
}

// Issue makes the token of a login, whose password has been checked.
func (t *Tokens) Issue(v *auth.View, name string) (string, error) {
	credential, ok := v.Credential(name)
	switch {
	case !v.Enabled():
		return "", shard.ErrAuthNotEnabled
	case !ok:
		return "", shard.ErrAuthFailed
	case t.sealed != nil:
		return t.sealed.issue(v.TokenKey(), name, credential), nil
	case t.signed != nil:
		return t.signed.issue(name, v.Revision())
	}
	return "", shard.ErrAuthFailed
}

// Open says whose a token is, where authentication is on: shard.ErrInvalidAuthToken for everything else than one that is valid.
func (t *Tokens) Open(v *auth.View, text string) (shard.Who, error) {
	var who shard.Who
	ok := false
	switch {
	case t.sealed != nil:
		who.Known = true
		who.Name, who.Credential, ok = t.sealed.open(v.TokenKey(), text)
	case t.signed != nil:
		who, ok = t.signed.open(text)
	}
	if !ok {
		return shard.Who{}, shard.ErrInvalidAuthToken
	}
	if err := v.Current(who); err != nil {
		return shard.Who{}, err
	}
	return who, nil
}

// The metadata of a request that says who makes it, in the order in which it is looked at.
const (
	tokenField         = "token"
	authorizationField = "authorization"
	// gatewayField is in what came as JSON: the connection is not the client's then.
	gatewayField = "grpcgateway-accept"
)

// Who says who a request comes from: by its token, else by the certificate of its connection. Nobody, where authentication is off, and where
// neither says anything. The error is shard.ErrInvalidAuthToken.
func (t *Tokens) Who(ctx context.Context, v *auth.View) (shard.Who, error) {
	if !v.Enabled() {
		return shard.Who{}, nil
	}
	text := metadata.ValueFromIncomingContext(ctx, tokenField)
	if len(text) == 0 {
		text = metadata.ValueFromIncomingContext(ctx, authorizationField)
	}
	if len(text) > 0 {
		return t.Open(v, strings.TrimPrefix(text[0], "Bearer "))
	}
	if t.certs && len(metadata.ValueFromIncomingContext(ctx, gatewayField)) == 0 {
		return certified(ctx), nil
	}
	return shard.Who{}, nil
}

// certified is who the verified certificate of a connection names; nobody where there is none.
func certified(ctx context.Context) shard.Who {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return shard.Who{}
	}
	info, ok := p.AuthInfo.(*tlsport.Info)
	if !ok {
		return shard.Who{}
	}
	return Certified(info.State.VerifiedChains)
}

// Certified is who the first chain of a certificate that was verified names; nobody where there is none.
func Certified(chains [][]*x509.Certificate) shard.Who {
	for _, chain := range chains {
		if len(chain) > 0 {
			return shard.Who{Name: chain[0].Subject.CommonName, Known: true}
		}
	}
	return shard.Who{}
}
