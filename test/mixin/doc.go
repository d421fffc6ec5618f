// Package mixin holds Pontoon against what sites watch an etcd with: the alerts and the dashboard of etcd's monitoring mixin, evaluated by
// Prometheus' own engine, rules and scrapes over a cluster of real processes. Every query must give a point; every alert is fired once, by a fault
// that is made for it, and resolves after it.
//
// It is a module of its own, so that Prometheus stays out of the store's requirements. `make test-mixin` runs it.
//
// Time is compressed: a minute of the rules is two seconds here (compression). Ranges, `for:` and subqueries are that much shorter, thresholds are what
// they are, and rates are still by the second: a fault must be as bad as on a site, only not for as long.
package mixin
