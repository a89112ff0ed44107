package grammar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// jsonValue is a JSON value that keeps the order of members and the digits of numbers.
type jsonValue struct {
	kind  byte         // { [ " 0 t n
	text  string       // of a string, unescaped; of a number or true or false, as written
	keys  []string     // of an object
	items []*jsonValue // elements, or the values of keys
}

// get gives a member of an object; nil: there is none.
func (v *jsonValue) get(key string) *jsonValue {
	if v.kind == '{' {
		for i, k := range v.keys {
			if k == key {
				return v.items[i]
			}
		}
	}
	return nil
}

// what names the kind of a value for messages.
func (v *jsonValue) what() string {
	switch v.kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 't':
		return "a boolean"
	}
	return "null"
}

// write appends the value as compact JSON.
func (v *jsonValue) write(out *strings.Builder) {
	switch v.kind {
	case '{':
		out.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(quoted(k))
			out.WriteByte(':')
			v.items[i].write(out)
		}
		out.WriteByte('}')
	case '[':
		out.WriteByte('[')
		for i, item := range v.items {
			if i > 0 {
				out.WriteByte(',')
			}
			item.write(out)
		}
		out.WriteByte(']')
	case '"':
		out.WriteString(quoted(v.text))
	case 'n':
		out.WriteString("null")
	default:
		out.WriteString(v.text)
	}
}

func (v *jsonValue) String() string {
	var out strings.Builder
	v.write(&out)
	return out.String()
}

// quoted is a string as JSON, with as few escapes as there can be.
func quoted(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		if short := shortEscapes[r]; short != 0 {
			out.WriteByte('\\')
			out.WriteByte(short)
		} else if r < ' ' {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// shortEscapes are the letters that stand behind a backslash for characters that a string cannot have as they are.
var shortEscapes = map[rune]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// mostDeep bounds the nesting of the JSON text of a schema.
const mostDeep = 4 * mostNested

func parseJSON(text []byte) (*jsonValue, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("want UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseJSONValue(d, 0)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return v, nil
		}
		err = errors.New("want nothing after the value")
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

func parseJSONValue(d *json.Decoder, depth int) (*jsonValue, error) {
	if depth > mostDeep {
		return nil, fmt.Errorf("want at most %d values within each other", mostDeep)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case string:
		return &jsonValue{kind: '"', text: token}, nil
	case json.Number:
		return &jsonValue{kind: '0', text: token.String()}, nil
	case bool:
		return &jsonValue{kind: 't', text: fmt.Sprint(token)}, nil
	case nil:
		return &jsonValue{kind: 'n'}, nil
	case json.Delim:
		v := &jsonValue{kind: byte(token)}
		seen := map[string]bool{}
		for d.More() {
			if token == '{' {
				key, err := d.Token()
				if err != nil {
					return nil, err
				}
				if seen[key.(string)] {
					return nil, fmt.Errorf("key %q is there twice", key)
				}
				seen[key.(string)] = true
				v.keys = append(v.keys, key.(string))
			}
			item, err := parseJSONValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, item)
		}
		_, err := d.Token()
		return v, err
	}
	return nil, fmt.Errorf("unexpected %v", token)
}
