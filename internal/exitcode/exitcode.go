package exitcode

import "errors"

type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

// With returns err with the code with which the process is to end because of it; nil for nil.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{code, err}
}

// Of returns the code that err came with, the outermost one, or otherwise where it has none: 0 for nil.
func Of(err error, otherwise int) int {
	if err == nil {
		return 0
	}
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	return otherwise
}
