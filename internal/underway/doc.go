// Package underway bounds what is under way at one place of a node: how many requests, and how many bytes they take. Who finds no room is refused at once;
// what becomes of that is the caller's.
package underway
