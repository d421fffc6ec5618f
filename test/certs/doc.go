// Package certs makes certificates for tests: an authority, what it issues, and what it takes back. It knows nobody who uses them.
package certs
