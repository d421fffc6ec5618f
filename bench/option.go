package bench

// Option is a flag of workloads, besides those of every workload.
type Option struct {
	Name  string
	Usage string
	// Values are all that there are, if they are so few.
	Values []string

	// Field is where a spec holds it: a pointer to an int, float64, bool, string or time.Duration.
	Field func(*Spec) any
	// In is how it stands in the name of what was measured; not set if it does not matter there.
	In func(Spec) (v any, set bool)
}

// always shows a value in every name.
func always[T any](of func(Spec) T) func(Spec) (any, bool) {
	return func(s Spec) (any, bool) { return of(s), true }
}

// Options that several workloads have. Those of one workload stand in its file.
var (
	optKeySize = Option{
		Name: "key-size", Usage: "bytes of a key",
		Field: func(s *Spec) any { return &s.KeySize }, In: always(func(s Spec) int { return s.KeySize }),
	}
	optValueSize = Option{
		Name: "val-size", Usage: "bytes of a value",
		Field: func(s *Spec) any { return &s.ValueSize }, In: always(func(s Spec) int { return s.ValueSize }),
	}
	optKeySpace = Option{
		Name: "key-space-size", Usage: "how many keys there are",
		Field: func(s *Spec) any { return &s.KeySpace }, In: always(func(s Spec) int { return s.KeySpace }),
	}
	optSequential = Option{
		Name: "sequential-keys", Usage: "keys one after the other instead of at random",
		Field: func(s *Spec) any { return &s.Sequential }, In: func(s Spec) (any, bool) { return true, s.Sequential },
	}
	optConsistency = Option{
		Name: "consistency", Usage: "of reads: l (linearizable) or s (serializable)",
		Values: []string{Linearizable, Serializable},
		Field:  func(s *Spec) any { return &s.Consistency }, In: always(func(s Spec) string { return s.Consistency }),
	}
)

// Consistency of reads, as etcd's benchmark tool has it.
const (
	Linearizable = "l"
	Serializable = "s"
)
