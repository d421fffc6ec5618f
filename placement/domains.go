package placement

import (
	"strings"

	"pontoon/internal/mutate"
)

// rowMax is how many replicas a range may have.
const rowMax = 9

// domains knows which nodes fail together. A tier names a part of the locality: "region=eu" is the first of
// "region=eu,zone=a", and the whole is the second.
type domains struct {
	tiers [][]int16 // per tier, the widest first: the domain of each node
	caps  []int     // per tier: how many replicas of a range one domain may hold
	sizes int       // domains of the last tier
}

// domainsOf reads the localities. hosts tells which nodes count as places for replicas, and n is how many of these a range
// should have: a domain may hold as many as it must where all are filled evenly.
func domainsOf(nodes []Node, hosts func(int) bool, n int) domains {
	depth := 1
	for i := range nodes {
		depth = max(depth, strings.Count(nodes[i].Locality, ",")+1)
	}
	d := domains{tiers: make([][]int16, depth), caps: make([]int, depth)}
	for t := range depth {
		ids := make(map[string]int16)
		of := make([]int16, len(nodes))
		var count []int
		for i := range nodes {
			name := prefix(nodes[i].Locality, t+1)
			id, known := ids[name]
			if !known {
				id = int16(len(ids))
				ids[name], count = id, append(count, 0)
			}
			of[i] = id
			if hosts(i) {
				count[id]++
			}
		}
		d.tiers[t], d.caps[t], d.sizes = of, capOf(count, n), len(count)
	}
	return d
}

// prefix returns the first n tiers of a locality, or all of a shorter one.
func prefix(locality string, n int) string {
	at := 0
	for range n {
		next := strings.IndexByte(locality[at:], ',')
		if next < 0 {
			return locality
		}
		at += next + 1
	}
	return locality[:at-1]
}

// capOf is the smallest number that, as the most that one domain holds, leaves room for n replicas.
func capOf(count []int, n int) int {
	for most := 1; most < n; most++ {
		room := 0
		for _, c := range count {
			room += min(c, most)
		}
		if room >= n {
			return most
		}
	}
	return n
}

// leaf is the narrowest domain of a node.
func (d *domains) leaf(n int16) int16 { return d.tiers[len(d.tiers)-1][n] }

// violations counts replicas that are one too many in their domain, on every tier. Those on nodes that are
// gone or to be empty do not count: skip has their roles.
func (d *domains) violations(row []int16, roles []role, skip role) int {
	total := 0
	if mutate.On(mutate.PlanDomain) {
		return 0
	}
	for t, of := range d.tiers {
		limit := d.caps[t]
		if limit >= len(row) {
			continue
		}
		here := 0
		for k, n := range row {
			if n < 0 || roles[n]&skip != 0 {
				continue
			}
			same := 1
			for _, m := range row[:k] {
				if m >= 0 && of[m] == of[n] && roles[m]&skip == 0 {
					same++
				}
			}
			if same > limit {
				here++
			}
		}
		total += here
		if limit == 1 && here == 0 {
			return total // tiers nest: who is apart here is apart further down
		}
	}
	return total
}

// clear tells at a glance that a row of full length has no violation; it may miss that. Nearly all rows are like this.
func (d *domains) clear(row []int16) bool {
	for t, limit := range d.caps {
		if limit >= len(row) {
			continue
		}
		if limit > 1 || len(row) != 3 || row[2] < 0 {
			return false
		}
		of := d.tiers[t]
		a, b, c := of[row[0]], of[row[1]], of[row[2]]
		return a != b && b != c && a != c // tiers nest
	}
	return true
}

// after counts the violations once from has become to; None in either adds or takes away.
func (d *domains) after(row []int16, from, to int16, roles []role, skip role) int {
	var next [rowMax]int16
	n := 0
	for _, m := range row {
		if m != from && m >= 0 {
			next[n] = m
			n++
		}
	}
	if to >= 0 {
		next[n] = to
		n++
	}
	return d.violations(next[:n], roles, skip)
}
