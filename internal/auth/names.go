package auth

import (
	"maps"

	"github.com/cespare/xxhash/v2"
)

// buckets is among how many maps names are divided: a change among ten thousand copies forty.
const buckets = 256

func bucketOf(name string) int { return int(xxhash.Sum64String(name) % buckets) }

// names is a map from names that never changes: with makes another one, which shares the buckets in which nothing has changed. The zero value is empty.
type names[T any] struct {
	in *[buckets]map[string]*T // nil: empty
	n  int
}

func (t names[T]) get(name string) *T {
	if t.in == nil {
		return nil
	}
	return t.in[bucketOf(name)][name]
}

// with returns it after some changes; what is nil there is removed.
func (t names[T]) with(changes map[string]*T) names[T] {
	next := names[T]{in: new([buckets]map[string]*T), n: t.n}
	if t.in != nil {
		*next.in = *t.in
	}
	var own [buckets]bool
	each := len(changes)/buckets + 1
	for name, v := range changes {
		b := bucketOf(name)
		if !own[b] {
			own[b] = true
			if next.in[b] = maps.Clone(next.in[b]); next.in[b] == nil {
				next.in[b] = make(map[string]*T, each)
			}
		}
		had := len(next.in[b])
		if v == nil {
			delete(next.in[b], name)
		} else {
			next.in[b][name] = v
		}
		next.n += len(next.in[b]) - had
	}
	return next
}

// all yields every one, in no order.
func (t names[T]) all(yield func(string, *T) bool) {
	if t.in == nil {
		return
	}
	for _, bucket := range t.in {
		for name, v := range bucket {
			if !yield(name, v) {
				return
			}
		}
	}
}

// keys yields the names, in no order.
func (t names[T]) keys(yield func(string) bool) {
	t.all(func(name string, _ *T) bool { return yield(name) })
}
