package exitcode

import (
	"errors"
	"fmt"
	"testing"
)

func TestOf(t *testing.T) {
	plain := errors.New("x")
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{With(3, nil), 0},
		{plain, 1},
		{With(3, plain), 3},
		{fmt.Errorf("while: %w", With(3, plain)), 3},
		{With(4, With(3, plain)), 4},
	} {
		if got := Of(c.err, 1); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if err := With(3, plain); !errors.Is(err, plain) || err.Error() != "x" {
		t.Errorf("%v is not what it was made of", err)
	}
}
