package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: a.say("Print the version", "显示版本"),
		Args:  a.arguments(0, 0, ""),
		RunE:  func(*cobra.Command, []string) error { return a.print("chulengo " + version()) },
	}
}

// version is the module's version, the commit and the toolchain, as the build recorded them.
func version() string {
	module, commit, changed := "(devel)", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			module = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = ", commit " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = "+changes"
			}
		}
	}
	return fmt.Sprintf("%s%s%s, %s %s/%s", module, commit, changed, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
