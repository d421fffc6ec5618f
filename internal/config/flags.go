package config

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// kind is the form of a flag's value: what is refused before anything is done with it.
type kind int

const (
	kindString kind = iota
	kindBool
	kindUint
	kindInt
	kindDuration
)

// fate is what happens to a flag that was given.
type fate int

const (
	// fateUsed: it has a meaning here.
	fateUsed fate = iota
	// fateIgnored: it belongs to something that is built otherwise here; one warning line.
	fateIgnored
	// fateRefused: ignoring it would be unsafe or plainly wrong; any value but the default stops
	// the start with the reason.
	fateRefused
)

// flagSpec is one row of the table of flags.
type flagSpec struct {
	name  string
	def   string // as the help prints it
	usage string
	kind  kind
	fate  fate
	why   string                          // of fateRefused; of fateIgnored, where etcd warns of the flag, what it says
	set   func(c *Config, v string) error // of fateUsed
	only  []string                        // of fateIgnored: the values that etcd takes; none: all
}

// flagGroup is a paragraph of the help.
type flagGroup struct {
	title string
	flags []flagSpec
}

// check refuses a value that does not have the form of its kind.
func (s *flagSpec) check(v string) error {
	var err error
	switch s.kind {
	case kindBool:
		_, err = strconv.ParseBool(v)
	case kindUint:
		_, err = strconv.ParseUint(v, 0, 64)
	case kindInt:
		_, err = strconv.ParseInt(v, 0, 64)
	case kindDuration:
		_, err = time.ParseDuration(v)
	case kindString:
	}
	if err != nil {
		return errParse
	}
	if len(s.only) > 0 && !slices.Contains(s.only, v) {
		return fmt.Errorf("invalid value %q", v)
	}
	return nil
}

// isDefault tells whether the value says what would hold without the flag.
func (s *flagSpec) isDefault(v string) bool {
	if s.kind == kindBool {
		got, _ := strconv.ParseBool(v)
		want, _ := strconv.ParseBool(s.def)
		return got == want
	}
	return v == s.def || v == ""
}

// apply gives a value its fate.
func (s *flagSpec) apply(c *Config, v string) error {
	switch s.fate {
	case fateUsed:
		return s.set(c, v)
	case fateIgnored:
		if s.why != "" { // etcd says it itself
			c.warn(s.why)
			return nil
		}
		c.warn("the flag is accepted for etcd's sake and has no effect here", "flag", "--"+s.name, "value", v)
	case fateRefused:
		if !s.isDefault(v) {
			return fmt.Errorf("--%s=%s: %s", s.name, v, s.why)
		}
	}
	return nil
}

func used(k kind, name, def, usage string, set func(c *Config, v string) error) flagSpec {
	return flagSpec{name: name, def: def, usage: usage, kind: k, set: set}
}

func ignored(k kind, name, def, usage string) flagSpec {
	return flagSpec{name: name, def: def, usage: usage, kind: k, fate: fateIgnored}
}

// deprecated is an ignored flag that etcd warns of, with these words, and of which it takes only some values, if any are named.
func deprecated(k kind, name, def, usage, warning string, only ...string) flagSpec {
	return flagSpec{name: name, def: def, usage: usage, kind: k, fate: fateIgnored, why: warning, only: only}
}

// refused is a flag that ends the start. why says what is not supported and, behind a colon, what to do
// instead: the error and the help both say it.
func refused(k kind, name, def, why string) flagSpec {
	return flagSpec{name: name, def: def, usage: "Refused: " + why + ".", kind: k, fate: fateRefused, why: why}
}

// The helpers below turn a field into a setter. Values have passed check.

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error { *field(c) = v; return nil }
}

func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		b, err := strconv.ParseBool(v)
		*field(c) = b
		return err
	}
}

func number[T ~uint | ~uint32 | ~uint64](bits int, field func(*Config) *T) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := strconv.ParseUint(v, 0, bits)
		if err != nil {
			return errRange
		}
		*field(c) = T(n)
		return nil
	}
}

func signed(field func(*Config) *int64) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return errRange
		}
		*field(c) = n
		return nil
	}
}

func millis(field func(*Config) *time.Duration) func(*Config, string) error {
	return units(time.Millisecond, field)
}

func seconds(field func(*Config) *time.Duration) func(*Config, string) error {
	return units(time.Second, field)
}

// units reads a number of a unit of time.
func units(unit time.Duration, field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := strconv.ParseUint(v, 0, 32)
		if err != nil {
			return errRange
		}
		*field(c) = time.Duration(n) * unit
		return nil
	}
}

func duration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		*field(c) = d
		return err
	}
}

func oneOf(name string, values []string, field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		for _, ok := range values {
			if v == ok {
				*field(c) = v
				return nil
			}
		}
		return fmt.Errorf("invalid value %q for --%s: valid values are %q", v, name, values)
	}
}
