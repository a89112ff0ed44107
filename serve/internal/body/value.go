package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"

	"chulengo/serve/internal/completion"
)

// maxDepth is how deeply arrays and objects may lie in one another. Schemas of large programs reach twenty levels.
const maxDepth = 100

// maxValues is how many values a body may have: a prompt of two million token ids. More would take much more memory
// than the body itself.
const maxValues = 2 << 20

// kind is that of a JSON value.
type kind uint8

const (
	absent kind = iota // or null
	yes
	no
	number
	text
	array
	object
)

// node is a value of the tree that the body becomes. It is small: a body of a million token ids is a million nodes.
type node struct {
	parent     *node
	inside     *inside // of an array or object
	name       string  // in parent, if that is an object
	index      int32   // in parent, if that is an array
	start, end int32   // in the body
	kind       kind
}

// inside are the items of an array, or an object's values with their names.
type inside struct {
	items []*node
	names []string
}

// path is where the value lies, as messages[1].content; "" for the body itself.
func (n *node) path() string {
	if n == nil || n.parent == nil {
		return ""
	}
	prefix := n.parent.path()
	if n.parent.kind == array {
		return prefix + "[" + strconv.Itoa(int(n.index)) + "]"
	}
	return join(prefix, n.name)
}

// join adds a field to a path. Names that are no plain words are quoted, and cut where they are long.
func join(prefix, name string) string {
	const longest = 64
	plain := name != "" && len(name) <= longest
	for _, r := range name {
		plain = plain && (r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if !plain {
		if len(name) > longest {
			name = name[:longest] + "…"
		}
		return prefix + "[" + strconv.QuoteToASCII(name) + "]"
	}
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// parser builds the tree.
type parser struct {
	data    []byte
	decoder *json.Decoder
	values  int // read so far
}

// parse reads one JSON value and nothing behind it. Errors are *completion.Error and name the field they are in.
func parse(data []byte) (*node, error) {
	p := parser{data: data, decoder: json.NewDecoder(bytes.NewReader(data))}
	p.decoder.UseNumber()
	root := &node{}
	if err := p.value(root, 0); err != nil {
		return nil, err
	}
	if _, err := p.decoder.Token(); err != io.EOF {
		return nil, completion.Invalid("", "JSON 之后（第 %d 字节处）还有别的内容", "there is something behind the JSON value, at byte %d", p.decoder.InputOffset())
	}
	return root, nil
}

// value reads the next value into n.
func (p *parser) value(n *node, depth int) error {
	token, start, err := p.token(n)
	if err != nil {
		return err
	}
	if p.values++; p.values > maxValues {
		return completion.Invalid(n.path(), "请求体中的值超过 %d 个", "the body has more than %d values", maxValues)
	}
	if depth == maxDepth {
		if _, opens := token.(json.Delim); opens {
			return completion.Invalid(n.path(), "嵌套超过 %d 层", "nested more than %d levels deep", maxDepth)
		}
	}
	switch t := token.(type) {
	case nil:
		n.kind = absent
	case bool:
		n.kind = no
		if t {
			n.kind = yes
		}
	case json.Number:
		n.kind = number
	case string:
		n.kind = text
	case json.Delim:
		if t == '[' {
			err = p.array(n, depth)
		} else {
			err = p.object(n, depth)
		}
		if err != nil {
			return err
		}
	}
	n.start, n.end = int32(start), int32(p.decoder.InputOffset())
	if n.kind == text && !utf8.Valid(p.data[n.start:n.end]) {
		return completion.Invalid(n.path(), "不是有效的 UTF-8", "not valid UTF-8")
	}
	return nil
}

// token reads a token of the value at n, which starts at the offset returned.
func (p *parser) token(n *node) (json.Token, int64, error) {
	start := p.decoder.InputOffset()
	for int(start) < len(p.data) && bytes.IndexByte([]byte(" \t\r\n,:"), p.data[start]) >= 0 {
		start++
	}
	token, err := p.decoder.Token()
	if err == nil {
		return token, start, nil
	}
	var syntax *json.SyntaxError
	at, what := p.decoder.InputOffset(), "unexpected end"
	switch {
	case errors.As(err, &syntax):
		at, what = max(at, syntax.Offset), syntax.Error()
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		what = err.Error()
	}
	return nil, 0, completion.Invalid(n.path(), "不是有效的 JSON（第 %d 字节附近：%s）", "not valid JSON (near byte %d: %s)", at, what)
}

func (p *parser) array(n *node, depth int) error {
	n.kind, n.inside = array, &inside{}
	for p.decoder.More() {
		item := &node{parent: n, index: int32(len(n.inside.items))}
		n.inside.items = append(n.inside.items, item)
		if err := p.value(item, depth+1); err != nil {
			return err
		}
	}
	_, _, err := p.token(n) // ]
	return err
}

func (p *parser) object(n *node, depth int) error {
	n.kind, n.inside = object, &inside{}
	seen := map[string]bool{}
	for p.decoder.More() {
		token, start, err := p.token(n)
		if err != nil {
			return err
		}
		name := token.(string) // the decoder takes nothing else for a name
		item := &node{parent: n, name: name}
		if raw := p.data[start:p.decoder.InputOffset()]; !utf8.Valid(raw) {
			return completion.Invalid(item.path(), "字段名不是有效的 UTF-8", "the field's name is not valid UTF-8")
		}
		if seen[name] {
			return completion.Invalid(item.path(), "字段出现了两次", "the field is there twice")
		}
		seen[name] = true
		n.inside.names, n.inside.items = append(n.inside.names, name), append(n.inside.items, item)
		if err := p.value(item, depth+1); err != nil {
			return err
		}
	}
	_, _, err := p.token(n) // }
	return err
}

// short cuts a text that stands in an error.
func short(s string) string {
	const longest = 40
	if len(s) <= longest {
		return s
	}
	cut := longest
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
