// Package auth is who may do what: users, roles, permissions, and whether any of that is asked for. It is a value that entries of the meta
// group's log change, and a view of it that requests are held against.
//
// It owns: etcd's rules for changes, with etcd's errors, and etcd's number of them; which spans a user may read and write; what each operation
// of a request needs, at any depth; from when on a login is not valid any more.
//
// It does not own: passwords and tokens (internal/token), which calls need what (internal/etcdapi, access.go), when a view is old, and what is
// done with who was refused.
//
// Invariants:
//   - A State and a View never change: Apply and Update make another one, which shares what has stayed.
//   - A difference leads to the state that it is of, or is refused.
//   - A span is allowed when one interval of what was merged covers it. Intervals that touch are one.
//   - A request is judged as it was asked, never in parts.
//   - What is not known is refused.
package auth
