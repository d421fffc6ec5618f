//go:build !mutate

package mutate

// Built says whether mutations are possible at all.
const Built = false

// On reports whether a rule is taken out: never, in this build.
func On(string) bool { return false }

// Set does nothing in this build.
func Set(string) {}
