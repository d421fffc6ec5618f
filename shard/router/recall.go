package router

import (
	"bytes"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// recallSlots bounds the keys of which an answer is remembered.
	recallSlots = 1 << 10
	// recallBytes is the largest answer that is remembered, so all of them together take 16 MiB at most.
	recallBytes = 16 << 10
)

// recalls are answers of leaders to reads of single keys that were read at least twice lately. Such an answer holds up to the revision at which it was fenced, and
// as far beyond as the oracle has given the range no revision: then the oracle's answer, which every read needs, is all that one more read needs, and
// the leader is not asked.
//
// A key has one slot, by its hash. Whoever is in one stays there for as long as he is read between two others that would be.
type recalls struct {
	mu    sync.Mutex
	slots []recall
	used  atomic.Uint64
}

// recall is one slot.
type recall struct {
	hash uint64
	read bool // since somebody else would have had the slot
	kept answer
	trial
}

// answer is the state of a key in a range, from rev on. What it refers to is never written.
type answer struct {
	key  []byte // nil: none
	id   shard.RangeID
	rev  int64
	resp *pb.ReadResponse
	// settings is the version of the settings under which it was read. A range judges a routing client by itself, so whatever is changed about
	// users has to be told by it.
	settings uint64
}

// at returns the slot of a hash.
func (c *recalls) at(hash uint64) *recall {
	if c.slots == nil {
		c.slots = make([]recall, recallSlots)
	}
	return &c.slots[hash%recallSlots]
}

// recall returns what is remembered of a key that is about to be read, if it may be of use, and whether the key has been read before.
func (c *recalls) recall(key []byte, hash uint64, id shard.RangeID, newest int64) (kept answer, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.at(hash)
	if s.hash != hash {
		if s.read {
			s.read = false
			return answer{}, false
		}
		*s = recall{hash: hash}
		return answer{}, false
	}
	s.read = true
	switch {
	case s.kept.id != id || !bytes.Equal(s.kept.key, key):
		return answer{}, true
	case newest-s.kept.rev > recallBehind || !s.due():
		return answer{}, true
	}
	return s.kept, true
}

// keep remembers what a leader has answered, unless a newer answer is.
func (c *recalls) keep(hash uint64, a answer) {
	size := len(a.key)
	for _, kv := range a.resp.Kvs {
		size += len(kv.Key) + len(kv.Value)
	}
	if size > recallBytes {
		return
	}
	a.key, a.resp = bytes.Clone(a.key), &pb.ReadResponse{Kvs: own(a.resp.Kvs), Count: a.resp.Count}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.at(hash); s.hash == hash && (s.kept.rev <= a.rev || !bytes.Equal(s.kept.key, a.key)) {
		s.kept = a
	}
}

// tried notes what came of an attempt to use what was remembered at the oracle's answer, which is of rev.
func (c *recalls) tried(hash uint64, a answer, rev int64, useful bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.at(hash)
	if s.hash != hash || s.kept.resp != a.resp {
		return
	}
	if s.tell(useful); useful {
		s.kept.rev = max(s.kept.rev, rev)
		c.used.Add(1)
	}
}

// holds reports whether an answer of the oracle says that what was remembered still is so.
func (a *answer) holds(now Now) bool {
	return now.SettingsVersion == a.settings && (final(now, a.id, a.rev) || mutate.On(mutate.RecallUnchecked))
}
