// Package extsort sorts more records than memory holds: runs that were sorted in memory go to files, compressed, and are merged.
//
// It owns the files of its sorters and knows nothing of what is sorted: a record is a key, by whose bytes it is ordered, and a value. A sorter
// belongs to one goroutine. Records with equal keys come in no particular order.
package extsort
