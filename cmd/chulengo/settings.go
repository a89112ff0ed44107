package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cast"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// settle gives every flag of cmd that the command line leaves out its value from the environment or the configuration
// file, and remembers where each value came from.
func (a *app) settle(cmd *cobra.Command) error {
	flags := cmd.Flags()
	fileFlag := flags.Lookup("config")
	if err := a.fromEnvironment(fileFlag); err != nil {
		return err
	}
	file, err := a.readConfig(a.opts.Config)
	if err != nil {
		return err
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if err == nil && f.Name != "help" && f.Name != "version" && f != fileFlag {
			if err = a.fromEnvironment(f); err == nil {
				err = a.fromFile(f, file)
			}
		}
	})
	if err != nil {
		return err
	}
	if a.opts.Lang != "" {
		if a.opts.Lang != "zh" && a.opts.Lang != "en" {
			return usage("--lang: want zh or en, got %q", "--lang 的值 %q 不合适：应为 zh 或 en", a.opts.Lang)
		}
		a.lang = a.opts.Lang
	}
	return nil
}

func (a *app) fromEnvironment(f *pflag.Flag) error {
	if f.Changed {
		a.origin[f.Name] = a.say("flag", "命令行")
		return nil
	}
	name := variable(f.Name)
	v, ok := a.lookup(name)
	if !ok || v == "" {
		return nil
	}
	a.origin[f.Name] = name
	return a.set(f, name, []string{v})
}

func (a *app) fromFile(f *pflag.Flag, file *viper.Viper) error {
	if _, decided := a.origin[f.Name]; decided || !file.InConfig(key(f.Name)) {
		return nil
	}
	where := a.opts.Config + ": " + key(f.Name)
	raw := file.Get(key(f.Name))
	var values []string
	switch v := raw.(type) {
	case []any:
		if f.Value.Type() != "stringArray" {
			return &message{code: exitUsage, en: badValue(where, fmt.Sprint(raw), f.Value.Type(), "en"), zh: badValue(where, fmt.Sprint(raw), f.Value.Type(), "zh")}
		}
		for _, one := range v {
			values = append(values, cast.ToString(one))
		}
	default:
		s, err := cast.ToStringE(raw)
		if err != nil {
			return &message{code: exitUsage, en: badValue(where, fmt.Sprint(raw), f.Value.Type(), "en"), zh: badValue(where, fmt.Sprint(raw), f.Value.Type(), "zh")}
		}
		values = []string{s}
	}
	a.origin[f.Name] = a.opts.Config
	return a.set(f, where, values)
}

// set gives a flag a value from elsewhere. A list in the environment is separated by spaces, because globs have commas.
func (a *app) set(f *pflag.Flag, where string, values []string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		if len(values) == 1 {
			values = strings.Fields(values[0])
		}
		return list.Replace(values)
	}
	if err := f.Value.Set(values[0]); err != nil {
		return &message{code: exitUsage, en: badValue(where, values[0], f.Value.Type(), "en"), zh: badValue(where, values[0], f.Value.Type(), "zh")}
	}
	return nil
}

// readConfig reads the file of --config; without one it is empty. A key that no command knows is an error: it is
// misspelt.
func (a *app) readConfig(path string) (*viper.Viper, error) {
	file := viper.New()
	if path == "" {
		return file, nil
	}
	file.SetConfigFile(path)
	if err := file.ReadInConfig(); err != nil {
		return nil, &message{code: exitUsage, en: "cannot read the configuration " + path, zh: "无法读取配置文件 " + path, cause: err}
	}
	var known []string
	for _, row := range a.opts.table() {
		known = append(known, key(row.name))
	}
	top := make([]string, 0)
	for k := range file.AllSettings() {
		top = append(top, k)
	}
	sort.Strings(top)
	for _, k := range top {
		if !slices.Contains(known, k) || k == "config" {
			return nil, usage("%s: there is no option %s", "%s：没有 %s 这个选项", path, k)
		}
	}
	return file, nil
}
