// Package admission is the one door for the requests of clients. Whatever a client asks of the store,
// by etcd's API or as a routing client, is checked here before any part of a node sees it: what a
// request must look like, how large it may be, how deep it may nest, what it may write twice. A new
// rule for requests, such as a permission or a quota, belongs here and nowhere else.
//
// It owns: the checks, with etcd's errors for them; the translation of etcd's requests into ours, which
// nobody else makes, so that what reaches the store has come through the door; and, for routing clients,
// what calls they may make and the translation back into the requests that these stand for.
//
// It does not own: answers, headers and the errors of the store (internal/etcdapi), how calls arrive
// (internal/front), and what a request finds when it is carried out (shard/replica refuses a key there
// that is too long to be stored).
//
// Invariants: what is returned was made anew from what was checked; bytes are shared with the request,
// which is not touched after that. What passes, passes again, and is the same.
package admission
