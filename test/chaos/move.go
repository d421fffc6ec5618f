package main

import (
	"context"
	"math/rand/v2"
	"slices"

	"pontoon/test/e2e/harness"
)

// free are the nodes on which a range has no replica.
func (s *site) free(r harness.RangeInfo) (names []string) {
	for _, n := range s.c.Nodes {
		if !isOn(r, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names
}

func isOn(r harness.RangeInfo, node string) bool {
	return slices.ContainsFunc(r.Replicas, func(on harness.ReplicaInfo) bool { return on.Name == node })
}

func sameNodes(a, b harness.RangeInfo) bool {
	return len(a.Replicas) == len(b.Replicas) && !slices.ContainsFunc(a.Replicas, func(on harness.ReplicaInfo) bool { return !isOn(b, on.Name) })
}

// moveAny moves one of a range's replicas to a node that has none.
func (s *site) moveAny(ctx context.Context, r *rand.Rand, via *harness.Node, is harness.RangeInfo) error {
	free := s.free(is)
	if len(free) == 0 || len(is.Replicas) == 0 {
		return errNothing
	}
	_, err := s.ops(via).BeginMove(ctx, is.ID, is.Replicas[r.IntN(len(is.Replicas))].Name, free[r.IntN(len(free))], "chaos")
	return err
}

// askMove moves a replica of some range.
func (s *site) askMove(ctx context.Context, r *rand.Rand, via *harness.Node) error {
	list, err := s.ops(via).Ranges(ctx)
	if err != nil || len(list) == 0 {
		return errNothing
	}
	return s.moveAny(ctx, r, via, list[r.IntN(len(list))])
}

// askMetaMove moves a replica of the meta group, its leader's as well as any other. Where all nodes have one it takes one away first.
func (s *site) askMetaMove(ctx context.Context, r *rand.Rand, via *harness.Node) error {
	is, err := s.ops(via).Meta(ctx)
	if err != nil {
		return errNothing
	}
	is.ID = harness.MetaID
	if len(s.free(is)) > 0 || len(is.Replicas) <= 3 {
		return s.moveAny(ctx, r, via, is)
	}
	_, err = s.ops(via).BeginMove(ctx, is.ID, is.Replicas[r.IntN(len(is.Replicas))].Name, "", "chaos")
	return err
}

// askMerge has a range become part of its left neighbour; where the two are on different nodes it brings them closer instead.
func (s *site) askMerge(ctx context.Context, r *rand.Rand, via *harness.Node) error {
	list, err := s.ops(via).Ranges(ctx)
	if err != nil || len(list) < 2 {
		return errNothing
	}
	slices.SortFunc(list, func(a, b harness.RangeInfo) int { return slices.Compare(a.Start, b.Start) })
	i := 1 + r.IntN(len(list)-1)
	for range len(list) { // most are not beside each other when everything moves
		if j := 1 + r.IntN(len(list)-1); r.IntN(4) > 0 && sameNodes(list[j-1], list[j]) {
			i = j
			break
		}
	}
	left, right := list[i-1], list[i]
	from, to := "", ""
	for _, on := range right.Replicas {
		if !isOn(left, on.Name) {
			from = on.Name
		}
	}
	for _, on := range left.Replicas {
		if !isOn(right, on.Name) {
			to = on.Name
		}
	}
	if from+to != "" {
		_, err := s.ops(via).BeginMove(ctx, right.ID, from, to, "chaos")
		return err
	}
	_, err = s.ops(via).BeginMerge(ctx, string(right.Start), "chaos")
	return err
}
