package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// The reference writes JSON with Python's json.dumps(value, ensure_ascii=False): members in their order, ", " and ": "
// between them, nothing escaped for HTML, numbers as Python shows them.

// jsonObject is an object whose members keep their order.
type jsonObject struct {
	keys   []string
	values map[string]any
}

// maxJSONDepth is where Python's encoder gives up.
const maxJSONDepth = 900

// parseOrdered reads a JSON value: nil, bool, string, json.Number, []any or *jsonObject. Of equal keys the last value
// counts, in the place of the first.
func parseOrdered(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the JSON value is empty or cut off")
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the JSON value")
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("the JSON value is nested more than %d deep", maxJSONDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := parseValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	case json.Delim('{'):
		object := &jsonObject{values: map[string]any{}}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := parseValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			name := key.(string) // the decoder allows nothing else here
			if _, ok := object.values[name]; !ok {
				object.keys = append(object.keys, name)
			}
			object.values[name] = v
		}
		_, err := d.Token()
		return object, err
	}
	return token, nil
}

// pythonJSON rewrites a JSON value; indent 0 means one line.
func pythonJSON(raw json.RawMessage, indent int) (string, error) {
	v, err := parseOrdered(raw)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	writePython(&out, v, indent, "\n")
	return out.String(), nil
}

// writePython writes v; line is the line break with the indentation of the place where v stands.
func writePython(out *strings.Builder, v any, indent int, line string) {
	between, inner := ", ", ""
	if indent > 0 {
		inner = line + strings.Repeat(" ", indent)
		between = "," + inner
	}
	switch v := v.(type) {
	case nil:
		out.WriteString("null")
	case bool:
		out.WriteString(strconv.FormatBool(v))
	case string:
		out.WriteString(quotePython(v))
	case json.Number:
		out.WriteString(pythonNumber(string(v)))
	case []any:
		out.WriteByte('[')
		for i, item := range v {
			out.WriteString(separator(i, inner, between))
			writePython(out, item, indent, inner)
		}
		closing(out, len(v), indent, line, ']')
	case *jsonObject:
		out.WriteByte('{')
		for i, key := range v.keys {
			out.WriteString(separator(i, inner, between))
			out.WriteString(quotePython(key) + ": ")
			writePython(out, v.values[key], indent, inner)
		}
		closing(out, len(v.keys), indent, line, '}')
	}
}

func separator(i int, first, between string) string {
	if i == 0 {
		return first
	}
	return between
}

func closing(out *strings.Builder, items, indent int, line string, bracket byte) {
	if items > 0 && indent > 0 {
		out.WriteString(line)
	}
	out.WriteByte(bracket)
}

// quotePython quotes a string: only quotes, backslashes and control characters are escaped.
func quotePython(s string) string {
	out := append(make([]byte, 0, len(s)+2), '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, `\n`...)
		case '\r':
			out = append(out, `\r`...)
		case '\t':
			out = append(out, `\t`...)
		case '\b':
			out = append(out, `\b`...)
		case '\f':
			out = append(out, `\f`...)
		default:
			if c < ' ' {
				out = fmt.Appendf(out, `\u%04x`, c)
			} else {
				out = append(out, c)
			}
		}
	}
	return string(append(out, '"'))
}

// pythonNumber writes a JSON number as Python reads and shows it: an int as it is, a float by its shortest digits.
func pythonNumber(s string) string {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return "0"
		}
		return s
	}
	f, _ := strconv.ParseFloat(s, 64) // out of range: ±Inf, as in Python
	return pythonFloat(f)
}

func pythonFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case math.IsNaN(f):
		return "NaN"
	}
	exponent := 0
	if f != 0 {
		e := strconv.FormatFloat(f, 'e', -1, 64)
		exponent, _ = strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
		if exponent < -4 || exponent >= 16 {
			return e
		}
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pythonSpace is what Python's str.strip removes.
func pythonSpace(r rune) bool { return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f }
