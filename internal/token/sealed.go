package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"time"

	"pontoon/internal/mutate"
)

// KeyBytes is how long the key is that tokens are sealed with.
const KeyBytes = 32

// NewKey draws one.
func NewKey() []byte {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // it never fails
	return key
}

const (
	sealBytes   = 16 // of the code that authenticates
	randomBytes = 8  // so that two logins of one second differ
	// sealedBytesMax bounds what is looked at: gRPC lets through more than any name of a user has.
	sealedBytesMax = 1 << 20
	// usedMax bounds the tokens that are remembered as used, of about a hundred bytes each.
	usedMax = 1 << 16
	// sealDomain keeps the key from saying anything about other texts.
	sealDomain = "pontoon token 1\x00"
)

type seal [sealBytes]byte

// sealed is what a token says: whose login it is, which one, and when that was.
type sealed struct {
	name       string
	credential uint64
	issued     int64 // Unix time in seconds
	random     [randomBytes]byte
}

// body is what the seal is made over.
func (s *sealed) body() []byte {
	out := append(make([]byte, 0, len(sealDomain)+randomBytes+2*binary.MaxVarintLen64+len(s.name)), sealDomain...)
	out = binary.BigEndian.AppendUint64(out, uint64(s.issued))
	out = append(out, s.random[:]...)
	out = binary.AppendUvarint(out, s.credential)
	return append(out, s.name...) // last: it needs no length
}

func (s *sealed) seal(key []byte) (out seal) {
	mac := hmac.New(sha256.New, key)
	mac.Write(s.body())
	copy(out[:], mac.Sum(nil))
	return out
}

// encoding has letters, digits and two signs that metadata and headers carry as they are.
var encoding = base64.RawURLEncoding.Strict()

// text renders a token as etcd's look: something, a dot, and a number.
func (s *sealed) text(key []byte) string {
	raw := append(make([]byte, 0, randomBytes+sealBytes+binary.MaxVarintLen64+len(s.name)), s.random[:]...)
	code := s.seal(key)
	raw = append(raw, code[:]...)
	raw = binary.AppendUvarint(raw, s.credential)
	raw = append(raw, s.name...)
	return encoding.EncodeToString(raw) + "." + strconv.FormatInt(s.issued, 10)
}

// parse reads a token, and believes nothing of it.
func parse(text string) (s sealed, code seal, ok bool) {
	if len(text) > sealedBytesMax {
		return s, code, false
	}
	body, number, found := strings.Cut(text, ".")
	if !found {
		return s, code, false
	}
	issued, err := strconv.ParseInt(number, 10, 64)
	if err != nil || issued < 0 || strconv.FormatInt(issued, 10) != number {
		return s, code, false
	}
	raw, err := encoding.DecodeString(body)
	if err != nil || len(raw) < randomBytes+sealBytes || encoding.EncodeToString(raw) != body { // the decoder skips the ends of lines
		return s, code, false
	}
	s.issued = issued
	copy(s.random[:], raw)
	copy(code[:], raw[randomBytes:])
	raw = raw[randomBytes+sealBytes:]
	credential, n := binary.Uvarint(raw)
	if n <= 0 || n != len(binary.AppendUvarint(nil, credential)) {
		return s, code, false
	}
	s.credential, s.name = credential, string(raw[n:])
	return s, code, true
}

// sealer makes sealed tokens and opens them.
type sealer struct {
	ttl time.Duration
	now func() time.Time

	mu   sync.Mutex
	used map[seal]time.Time // until when what was used here is valid
}

func newSealer(ttl time.Duration, now func() time.Time) *sealer {
	return &sealer{ttl: ttl, now: now, used: make(map[seal]time.Time)}
}

// issue makes the token of a login.
func (s *sealer) issue(key []byte, name string, credential uint64) string {
	t := sealed{name: name, credential: credential, issued: s.now().Unix()}
	_, _ = rand.Read(t.random[:])
	return t.text(key)
}

// open says whose login a token is; false: it was not sealed with the key, or has expired. It prolongs it.
func (s *sealer) open(key []byte, text string) (name string, credential uint64, ok bool) {
	t, code, ok := parse(text)
	if !ok || len(key) == 0 {
		return "", 0, false
	}
	want := t.seal(key)
	if subtle.ConstantTimeCompare(want[:], code[:]) != 1 && !mutate.On(mutate.TokenUnsealed) {
		return "", 0, false
	}
	if !s.use(code, time.Unix(t.issued, 0)) {
		return "", 0, false
	}
	return t.name, t.credential, true
}

// use reports whether a token that was issued then is still valid, and prolongs it. The time of issue has whole seconds.
func (s *sealer) use(code seal, issued time.Time) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	until, known := s.used[code]
	if !known {
		until = issued.Add(s.ttl + time.Second)
	}
	if !now.Before(until) && !mutate.On(mutate.TokenForever) {
		delete(s.used, code)
		return false
	}
	if !known && len(s.used) >= usedMax && !s.sweep(now) {
		return true
	}
	if next := now.Add(s.ttl); next.After(until) {
		until = next
	}
	s.used[code] = until
	return true
}

// sweep forgets what has expired; false if nothing has.
func (s *sealer) sweep(now time.Time) (any bool) {
	for code, until := range s.used {
		if !now.Before(until) {
			delete(s.used, code)
			any = true
		}
	}
	return any
}
