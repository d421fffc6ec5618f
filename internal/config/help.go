package config

import (
	"fmt"
	"io"
	"strings"
)

const usageText = `Usage:

  node [flags]
    Start a Pontoon node.

  node --version
    Show the version.

  node -h | --help
    Show what each flag means.

  node --config-file path
    Take the configuration from a YAML file; other flags and ETCD_… variables are
    ignored then. Durations are integers, in nanoseconds, in that file.

Every flag can be given as an environment variable: --some-flag as ETCD_SOME_FLAG.
Flags win.
`

func writeUsage(w io.Writer) { _, _ = io.WriteString(w, usageText) }

// writeHelp prints the usage and every flag by group, in etcd's form.
func writeHelp(w io.Writer) {
	var b strings.Builder
	for _, g := range groups() {
		fmt.Fprintf(&b, "\n%s:\n", g.title)
		for i := range g.flags {
			f := &g.flags[i]
			fmt.Fprintf(&b, "  --%s '%s'\n    %s\n", f.name, f.def, f.usage)
		}
	}
	_, _ = io.WriteString(w, b.String())
}
