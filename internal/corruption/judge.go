package corruption

import (
	"pontoon/shard"
)

// Copy is what one voter of a range says of its content: a hash, logical at a compaction; or why it says nothing.
type Copy struct {
	Node      shard.NodeID
	Hash      uint64
	Compacted int64 // revision
	Err       error
}

// verdict is what the copies of a range come to.
type verdict uint8

const (
	// agree: a majority agrees, and nobody differs from it.
	agree verdict = iota
	// differ: some differ from a majority.
	differ
	// split: all have answered, at one compaction, and none has a majority.
	split
	// open: too few have answered, or not all at one compaction, to say more.
	open
)

// judge compares the copies of a range, one for each of its voters. The nodes are those of the copies that differ.
func judge(copies []Copy) (verdict, []shard.NodeID) {
	type at struct {
		hash      uint64
		compacted int64
	}
	count := map[at]int{}
	for _, c := range copies {
		if c.Err == nil {
			count[at{c.Hash, c.Compacted}]++
		}
	}
	var most at
	for k, n := range count {
		if n > len(copies)/2 {
			most = k
		}
	}
	if count[most] <= len(copies)/2 {
		if together(copies) && len(count) > 1 {
			return split, nodes(copies, func(Copy) bool { return true })
		}
		return open, nil
	}
	other := nodes(copies, func(c Copy) bool { return c.Err == nil && c.Compacted == most.compacted && c.Hash != most.hash })
	if len(other) > 0 {
		return differ, other
	}
	return agree, nil
}

// together reports whether all have answered, at one compaction.
func together(copies []Copy) bool {
	for _, c := range copies {
		if c.Err != nil || c.Compacted != copies[0].Compacted {
			return false
		}
	}
	return true
}

func nodes(copies []Copy, which func(Copy) bool) (out []shard.NodeID) {
	for _, c := range copies {
		if which(c) {
			out = append(out, c.Node)
		}
	}
	return out
}
