package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pontoon/shard"
)

// defaultTTL is for how long a signed token is valid where nothing else is said.
const defaultTTL = 5 * time.Minute

// Errors of the flag, with etcd's texts.
var (
	errOptions     = errors.New("auth: invalid auth options")
	errMethod      = errors.New("auth: invalid auth signature method")
	errMissingKey  = errors.New("auth: missing key data")
	errKeyMismatch = errors.New("auth: public and private keys don't match")
	// errVerifyOnly is the answer to a login where no key to sign with was given.
	errVerifyOnly = errors.New("auth: token signing attempted with verify-only key")
)

// signer makes signed tokens and reads them.
type signer struct {
	method jwt.SigningMethod
	sign   any // nil: the node can only verify
	verify any
	ttl    time.Duration
	now    func() time.Time
	parser *jwt.Parser
}

// newSigner takes what the flag says behind its first comma.
func newSigner(options map[string]string, now func() time.Time) (*signer, error) {
	s := &signer{ttl: defaultTTL, now: now}
	if text := options["ttl"]; text != "" {
		ttl, err := time.ParseDuration(text)
		if err != nil {
			return nil, err
		}
		s.ttl = ttl
	}
	var pub, priv []byte
	for _, f := range []struct {
		path string
		to   *[]byte
	}{{options["pub-key"], &pub}, {options["priv-key"], &priv}} {
		if f.path == "" {
			continue
		}
		var err error
		if *f.to, err = os.ReadFile(f.path); err != nil {
			return nil, err
		}
	}
	if s.method = jwt.GetSigningMethod(options["sign-method"]); s.method == nil {
		return nil, errMethod
	}
	if err := s.readKeys(pub, priv); err != nil {
		return nil, err
	}
	s.parser = jwt.NewParser(jwt.WithValidMethods([]string{s.method.Alg()}), jwt.WithTimeFunc(now))
	return s, nil
}

// readKeys takes the keys of the method from PEM, or as they are for one secret.
func (s *signer) readKeys(pub, priv []byte) (err error) {
	switch s.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		s.sign, s.verify, err = keyPair(pub, priv, jwt.ParseRSAPublicKeyFromPEM, jwt.ParseRSAPrivateKeyFromPEM)
	case *jwt.SigningMethodECDSA:
		s.sign, s.verify, err = keyPair(pub, priv, jwt.ParseECPublicKeyFromPEM, jwt.ParseECPrivateKeyFromPEM)
	case *jwt.SigningMethodEd25519:
		s.sign, s.verify, err = keyPair(pub, priv, parseEdPublic, parseEdPrivate)
	case *jwt.SigningMethodHMAC:
		if len(priv) == 0 {
			return errMissingKey
		}
		s.sign, s.verify = priv, priv
	default:
		return fmt.Errorf("unsupported signing method: %T", s.method)
	}
	return err
}

// publicKey is what the standard library's public keys have in common.
type publicKey interface{ Equal(crypto.PublicKey) bool }

// privateKey is the same of private ones.
type privateKey interface{ Public() crypto.PublicKey }

func keyPair[P publicKey, K privateKey](pub, priv []byte, parsePub func([]byte) (P, error), parsePriv func([]byte) (K, error)) (sign, verify any, err error) {
	if len(priv) > 0 {
		k, err := parsePriv(priv)
		if err != nil {
			return nil, nil, err
		}
		sign, verify = k, k.Public()
	}
	if len(pub) > 0 {
		p, err := parsePub(pub)
		switch {
		case err != nil:
			return nil, nil, err
		case sign != nil && !p.Equal(verify):
			return nil, nil, errKeyMismatch
		}
		verify = p
	}
	if verify == nil {
		return nil, nil, errMissingKey
	}
	return sign, verify, nil
}

func parseEdPublic(pem []byte) (ed25519.PublicKey, error) {
	k, err := jwt.ParseEdPublicKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return k.(ed25519.PublicKey), nil
}

func parseEdPrivate(pem []byte) (ed25519.PrivateKey, error) {
	k, err := jwt.ParseEdPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return k.(ed25519.PrivateKey), nil
}

var (
	_ publicKey  = (*rsa.PublicKey)(nil)
	_ publicKey  = (*ecdsa.PublicKey)(nil)
	_ privateKey = (*rsa.PrivateKey)(nil)
	_ privateKey = (*ecdsa.PrivateKey)(nil)
)

// issue makes the token of a login at a revision of users and roles.
func (s *signer) issue(name string, revision uint64) (string, error) {
	if s.sign == nil {
		return "", errVerifyOnly
	}
	claims := jwt.MapClaims{"username": name, "revision": revision, "exp": s.now().Add(s.ttl).Unix()}
	return jwt.NewWithClaims(s.method, claims).SignedString(s.sign)
}

// open says whose token it is; false: it was not signed by the key, has expired, or does not say what it must.
func (s *signer) open(text string) (shard.Who, bool) {
	parsed, err := s.parser.Parse(text, func(*jwt.Token) (any, error) { return s.verify, nil })
	if err != nil || !parsed.Valid {
		return shard.Who{}, false
	}
	claims, _ := parsed.Claims.(jwt.MapClaims)
	name, named := claims["username"].(string)
	revision, dated := claims["revision"].(float64)
	if !named || !dated || !(revision >= 0 && revision < math.MaxUint64) {
		return shard.Who{}, false
	}
	return shard.Who{Name: name, Known: true, Dated: true, Revision: uint64(revision)}, true
}
