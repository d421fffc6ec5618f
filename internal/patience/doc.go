// Package patience bounds the time of a request without the price of context.WithTimeout.
//
// A request that passes through a node is given a deadline, and nearly always ends before it. Its
// context costs a timer, a channel and an entry in its parent, and each wait on it a callback more.
// A Context here makes them when somebody asks for Done; Wait, which is how a goroutine waits for
// its one answer, does not. Wake is the other side of one that waits until there is something to do.
package patience
