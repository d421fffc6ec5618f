package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// keys are the keys of a workload: decimal numbers of equal width behind a prefix.
type keys struct {
	prefix     string
	size       int
	space      int
	sequential bool
	seed       uint64
}

func keysOf(s Spec) keys {
	return keys{prefix: s.Prefix, size: s.KeySize, space: s.KeySpace, sequential: s.Sequential, seed: s.Seed}
}

// at is the key of index i.
func (k keys) at(i int) string {
	b := make([]byte, len(k.prefix)+k.size)
	k.put(b, i)
	return string(b)
}

// put writes the key of index i into b, which has the length of a key.
func (k keys) put(b []byte, i int) {
	copy(b, k.prefix)
	for at := len(b) - 1; at >= len(k.prefix); at-- {
		b[at] = byte('0' + i%10)
		i /= 10
	}
}

// index is the inverse of at; not ok if there is no such key.
func (k keys) index(key []byte) (i int, ok bool) {
	if len(key) != len(k.prefix)+k.size || string(key[:len(k.prefix)]) != k.prefix {
		return 0, false
	}
	i, err := strconv.Atoi(string(key[len(k.prefix):]))
	return i, err == nil && i >= 0 && i < k.space
}

// end is the first key behind the key of index i.
func (k keys) end(i int) string { return k.at(i) + "\x00" }

// pick is the index of the key that operation seq is about: the same for the same seed.
func (k keys) pick(seq int64) int {
	if k.sequential {
		return int(seq % int64(k.space))
	}
	return int(k.draw(seq, 1) % uint64(k.space))
}

// draw is a number that depends on nothing but the seed, the operation and what it is for.
func (k keys) draw(seq int64, purpose uint64) uint64 {
	return mix(mix(k.seed^purpose) + uint64(seq))
}

// mix scatters the bits of x so that neighbours have nothing in common (splitmix64's steps).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// splits are keys that cut the key space into n parts of equal numbers of keys, fewer if there are
// not so many keys.
func (k keys) splits(n int) []string {
	var out []string
	n = min(n, k.space)
	for i := 1; i < n; i++ {
		out = append(out, k.at(int(int64(k.space)*int64(i)/int64(n))))
	}
	return out
}

// values are the contents of values: the number of the operation, then bytes from a fixed block
// at a place that depends on it.
type values struct {
	size  int
	block []byte
}

// preparedBit marks the numbers of writes before the run.
const preparedBit = 1 << 63

func newValues(s Spec) values {
	v := values{size: s.ValueSize, block: make([]byte, 2*s.ValueSize+4096)}
	rng := rand.NewChaCha8([32]byte{byte(s.Seed), byte(s.Seed >> 8), 1})
	_, _ = rng.Read(v.block) // cannot fail
	return v
}

func (v values) filler(op uint64) []byte {
	n := v.size - valueSizeMin
	at := int(mix(op) % uint64(len(v.block)-n))
	return v.block[at : at+n]
}

// of is what operation op writes.
func (v values) of(op uint64) string {
	b := make([]byte, valueSizeMin, v.size)
	binary.BigEndian.PutUint64(b, op)
	return string(append(b, v.filler(op)...))
}

// writer tells which operation wrote a value; it fails if none can have written it.
func (v values) writer(value []byte) (op uint64, err error) {
	if len(value) != v.size {
		return 0, fmt.Errorf("a value has %d bytes, not %d", len(value), v.size)
	}
	op = binary.BigEndian.Uint64(value)
	if string(value[valueSizeMin:]) != string(v.filler(op)) {
		return 0, fmt.Errorf("a value of operation %d has bytes that were not written", op)
	}
	return op, nil
}
