package model

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// ConfigError is a value of a configuration file that is missing, of the wrong kind, or at odds with another.
type ConfigError struct {
	File string // config.json, generation_config.json
	Key  string // dotted path of the key, e.g. text_config.head_dim
	Want string
	Got  string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("model: %s: %s: want %s, got %s", e.File, e.Key, e.Want, e.Got)
}

// object reads a JSON object key by key. The first fault is kept in *err and later reads give zero values, so that a
// configuration reads as a list of its keys.
type object struct {
	file, path string
	values     map[string]json.RawMessage
	err        *error
}

func parseObject(file string, data []byte, err *error) object {
	o := object{file: file, err: err}
	if e := json.Unmarshal(data, &o.values); e != nil || o.values == nil {
		if e == nil {
			e = fmt.Errorf("want a JSON object, got null")
		}
		*err = fmt.Errorf("model: %s: %w", file, e)
	}
	return o
}

func (o object) key(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// fail keeps the first fault.
func (o object) fail(name, want string, got any) {
	if *o.err == nil {
		*o.err = &ConfigError{File: o.file, Key: o.key(name), Want: want, Got: fmt.Sprint(got)}
	}
}

// has reports whether the key is there and not null.
func (o object) has(name string) bool {
	v, ok := o.values[name]
	return ok && string(v) != "null"
}

// isNull reports whether the key is there with the value null.
func (o object) isNull(name string) bool { return string(o.values[name]) == "null" }

func (o object) child(name string) object {
	c := object{file: o.file, path: o.key(name), err: o.err}
	if o.has(name) && json.Unmarshal(o.values[name], &c.values) != nil {
		o.fail(name, "an object", o.shown(name))
	}
	return c
}

// shown is the value as written, shortened for an error message.
func (o object) shown(name string) string {
	v, ok := o.values[name]
	if !ok {
		return "nothing"
	}
	s := strings.Join(strings.Fields(string(v)), " ")
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// integer reads a whole number in [low, high]. Without a fallback the key is required.
func (o object) integer(name string, low, high int, fallback ...int) int {
	if !o.has(name) {
		if len(fallback) == 0 {
			o.fail(name, fmt.Sprintf("an integer from %d to %d", low, high), o.shown(name))
			return low
		}
		return fallback[0]
	}
	var v float64
	if json.Unmarshal(o.values[name], &v) != nil || v != math.Trunc(v) || v < float64(low) || v > float64(high) {
		o.fail(name, fmt.Sprintf("an integer from %d to %d", low, high), o.shown(name))
		return low
	}
	return int(v)
}

// positive reads a finite number above zero.
func (o object) positive(name string, fallback ...float64) float64 {
	v, ok := o.number(name, fallback...)
	if ok && !(v > 0) {
		o.fail(name, "a number above 0", o.shown(name))
		return 1
	}
	return v
}

func (o object) number(name string, fallback ...float64) (v float64, ok bool) {
	if !o.has(name) && len(fallback) > 0 {
		return fallback[0], true
	}
	if !o.has(name) || json.Unmarshal(o.values[name], &v) != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		o.fail(name, "a number", o.shown(name))
		return 1, false
	}
	return v, true
}

func (o object) boolean(name string, fallback bool) bool {
	if !o.has(name) {
		return fallback
	}
	var v bool
	if json.Unmarshal(o.values[name], &v) != nil {
		o.fail(name, "true or false", o.shown(name))
	}
	return v
}

func (o object) text(name, fallback string) string {
	if !o.has(name) {
		return fallback
	}
	var v string
	if json.Unmarshal(o.values[name], &v) != nil {
		o.fail(name, "a string", o.shown(name))
	}
	return v
}

// oneOf reads a string that must be one of the given ones; the first is the fallback.
func (o object) oneOf(name string, allowed ...string) string {
	v := o.text(name, allowed[0])
	if !slices.Contains(allowed, v) {
		o.fail(name, strings.Join(allowed, " or "), o.shown(name))
	}
	return v
}

// strings reads a list of strings; nil if the key is absent or null.
func (o object) strings(name string) (list []string) {
	if o.has(name) && json.Unmarshal(o.values[name], &list) != nil {
		o.fail(name, "a list of strings", o.shown(name))
		return nil
	}
	return list
}

// integers reads a list of whole numbers in [low, high]; nil if the key is absent or null.
func (o object) integers(name string, low, high int) []int {
	if !o.has(name) {
		return nil
	}
	var list []float64
	if json.Unmarshal(o.values[name], &list) != nil {
		o.fail(name, "a list of integers", o.shown(name))
		return nil
	}
	out := make([]int, len(list))
	for i, v := range list {
		if v != math.Trunc(v) || v < float64(low) || v > float64(high) {
			o.fail(name, fmt.Sprintf("integers from %d to %d", low, high), fmt.Sprintf("%v at index %d", v, i))
			return nil
		}
		out[i] = int(v)
	}
	return out
}

// ids reads one token id or a list of them, each below vocab.
func (o object) ids(name string, vocab int) []int32 {
	if !o.has(name) {
		return nil
	}
	var list []int
	if o.values[name][0] == '[' {
		list = o.integers(name, 0, vocab-1)
	} else {
		list = []int{o.integer(name, 0, vocab-1)}
	}
	out := make([]int32, len(list))
	for i, v := range list {
		out[i] = int32(v)
	}
	return out
}
