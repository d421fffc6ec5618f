package shard

import (
	"bytes"
	"encoding/binary"
)

// keys are the start keys of a node, in order, never written. A search compares numbers that lie side by side:
// to look at the keys themselves costs a miss of the processor's cache each. The first key is left out of these: it is
// at or below what is looked for in the node, and that of the whole tree has nothing in common with the others.
type keys struct {
	starts [][]byte
	heads  []uint64 // of each start but the first, the bytes behind those that they have in common
	skip   int      // how many bytes they have in common
}

func keysOf(starts [][]byte) keys {
	k := keys{starts: starts}
	if len(starts) < 2 {
		return k
	}
	first, last := starts[1], starts[len(starts)-1]
	for k.skip < min(len(first), len(last)) && first[k.skip] == last[k.skip] {
		k.skip++
	}
	k.heads = make([]uint64, len(starts)-1)
	for i, s := range starts[1:] {
		k.heads[i] = head(s[k.skip:])
	}
	return k
}

// head is the number whose bytes a key begins with: keys with different heads are in their order.
func head(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// upTo returns how many of the starts but the first are at or below key.
func (k *keys) upTo(key []byte) int {
	if k.skip > 0 {
		if c := bytes.Compare(key[:min(k.skip, len(key))], k.starts[1][:k.skip]); c != 0 {
			return (c + 1) / 2 * len(k.heads)
		}
		key = key[k.skip:]
	}
	h := head(key)
	lo, hi := 0, len(k.heads)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); k.heads[mid] < h {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(k.heads) && k.heads[lo] == h {
		return k.upToTied(lo, key)
	}
	return lo
}

// upToTied is upTo where the heads from lo on are that of key, of which the bytes that all have are cut off.
func (k *keys) upToTied(lo int, key []byte) int {
	hi := lo + 1
	for hi < len(k.heads) && k.heads[hi] == k.heads[lo] {
		hi++
	}
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); bytes.Compare(k.starts[mid+1][k.skip:], key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// seek returns the place of the last start at or below key, -1 if there is none.
func (k *keys) seek(key []byte) int {
	i := k.upTo(key)
	if i == 0 && (len(k.starts) == 0 || bytes.Compare(k.starts[0], key) > 0) {
		return -1
	}
	return i
}

// below returns the place of the last start below key, -1 if there is none.
func (k *keys) below(key []byte) int {
	i := k.seek(key)
	if i >= 0 && bytes.Equal(k.starts[i], key) {
		i--
	}
	return i
}

// next is the start behind place i, where end is the one behind the node.
func (k *keys) next(i int, end []byte) []byte {
	if i+1 < len(k.starts) {
		return k.starts[i+1]
	}
	return end
}

// replaced returns the keys with out of them from place i on replaced by others.
func (k *keys) replaced(i, out int, in ...[]byte) keys {
	return keysOf(replaced(k.starts, i, out, in...))
}
