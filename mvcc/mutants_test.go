package mvcc

import (
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

// TestMutants: each rule of a store that is cut in two, merged of two, or written anew, that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.StoreNames(), 4*time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Cut|Trim|Split|Merge|Defragment")
}
