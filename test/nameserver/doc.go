// Package nameserver is a DNS server for tests: it knows a handful of hosts and services, and nobody else.
package nameserver
