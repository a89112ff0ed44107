package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: a.say("Show the options in force", "显示生效的选项"), Args: a.arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	show := &cobra.Command{
		Use:   "show",
		Short: a.say("Print every option's value and where it came from", "显示每个选项的值与来源"),
		Args:  a.arguments(0, 0, ""),
	}
	var names []string
	for _, row := range a.opts.table() {
		switch row.name {
		case "config", "lang", "verbose", "quiet": // the root has them
		default:
			names = append(names, row.name)
		}
	}
	a.addFlags(show.Flags(), names)
	show.RunE = func(cmd *cobra.Command, _ []string) error { return a.showConfig(cmd.Flags()) }
	cmd.AddCommand(show)
	return cmd
}

// setting is one line of config show.
type setting struct {
	Value  string `json:"value"`
	Origin string `json:"origin"` // default, flag, a variable or a file
}

func (a *app) showConfig(flags *pflag.FlagSet) error {
	all := map[string]setting{}
	var t table
	t.add(a.say("OPTION", "选项"), a.say("VALUE", "值"), a.say("FROM", "来源"))
	for _, row := range a.opts.table() {
		f := flags.Lookup(row.name)
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), " ")
		}
		from, ok := a.origin[row.name]
		if !ok {
			from = a.say("default", "默认")
		}
		if row.name == "data-dir" && value == "" {
			value, _ = a.dataDir()
		}
		if u, err := url.Parse(value); row.name == "database" && err == nil {
			value = u.Redacted()
		}
		if row.name == "api-key" && value != "" {
			value = "xxxxx"
		}
		all[key(row.name)] = setting{value, from}
		t.add(key(row.name), value, from)
	}
	if a.opts.JSON {
		return a.printJSON(all)
	}
	if err := t.write(a.out); err != nil {
		return fmt.Errorf("config show: %w", err)
	}
	return nil
}
