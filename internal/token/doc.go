// Package token says who a request comes from: by a token that was sealed here, by a signed one (JWT), or by the certificate of its
// connection; and it hashes passwords.
//
// It owns: how tokens look, for how long they are valid, the flag that chooses them, and the order in which a request's metadata is looked at.
//
// It does not own: whether who that is may do what is asked, and whether the login still counts (internal/auth): a token that is as it was made
// here is held against the view of the moment.
//
// A sealed token is no secret of one node: whoever has the key that members share can check it, at once, without a message, also a node that
// has just started. What a node remembers is only that a token was used, which prolongs it there. That memory is bounded; what does not fit
// lives as long as if it had not been used.
//
// Invariants: no token and no password is logged, or part of an error. What is not exactly as it was made is refused, in time that does not
// depend on how wrong it is.
package token
