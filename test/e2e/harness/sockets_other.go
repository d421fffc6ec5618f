//go:build !linux

package harness

import "errors"

// KernelMemory is what the system holds for the connections of the node's clients; Linux alone tells.
func (*Node) KernelMemory() (bytes int64, connections int, err error) {
	return 0, 0, errors.ErrUnsupported
}
