// Package exitcode has errors say with which code the process ends.
package exitcode
