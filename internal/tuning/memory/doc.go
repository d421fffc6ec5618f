// Package memory tells how much memory the process may use: the least of what Go's runtime was told (GOMEMLIMIT), what the control groups that it lies in
// allow, and what the machine has. The files of Linux are read from a file system that it is given.
package memory
