package watchfanout

import "slices"

// siftMin is how many wait at least before those who have given up are looked for.
const siftMin = 64

// waiters are those who wait for something that may be long in coming, in order. Whoever gives up meanwhile does
// not stay for as long as that lasts: whenever there are twice as many as were left, they are taken out.
type waiters[T interface{ abandoned() bool }] struct {
	list []T
	sift int // at so many they are looked for
}

func (ws *waiters[T]) add(w T) {
	if len(ws.list) >= max(ws.sift, siftMin) {
		ws.list = slices.DeleteFunc(ws.list, func(w T) bool { return w.abandoned() })
		ws.sift = 2 * len(ws.list)
	}
	ws.list = append(ws.list, w)
}

// take empties it.
func (ws *waiters[T]) take() []T {
	list := ws.list
	*ws = waiters[T]{}
	return list
}

// first takes the one that has waited for longest; false: there is none.
func (ws *waiters[T]) first() (w T, ok bool) {
	if len(ws.list) == 0 {
		return w, false
	}
	w = ws.list[0]
	clear(ws.list[:1])
	if ws.list = ws.list[1:]; len(ws.list) == 0 {
		ws.list, ws.sift = nil, 0
	}
	return w, true
}
