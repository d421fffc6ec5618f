// Package underway bounds what is under way at one place of a node. A Room bounds how many requests, and how many bytes they take: who finds no room is refused at
// once, and what becomes of that is the caller's. Lists bounds the answers that are put together, by their bytes: who finds no room waits.
package underway
