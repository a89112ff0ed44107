package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// mostExpansions bounds how many schemas a schema may come to, references and combinations counted anew.
const mostExpansions = 20_000

// JSONSchema compiles a JSON schema (draft 2020-12, and what clients send of older ones). Every answer is valid JSON that
// follows it.
//
// Known are:
//   - true and false; type (one or several), nullable; enum, const
//   - properties, required, additionalProperties; of objects without properties also minProperties, maxProperties,
//     propertyNames, and patternProperties with one pattern
//   - items, prefixItems, minItems, maxItems; uniqueItems of at most 8 constants
//   - minLength, maxLength; pattern; format: date, time, date-time, duration, uuid, uuid4, email, hostname, ipv4, ipv6, uri
//   - minimum, maximum, exclusiveMinimum, exclusiveMaximum; multipleOf 1, 0.1, 0.01, …; format: int32, int64
//   - anyOf, oneOf, allOf; not of everything; $ref within the schema, also recursive, to $defs, definitions or elsewhere
//   - notes that say nothing about values: title, description, default, examples, x-…; format: password, float and the like
//
// Every other keyword is a *SchemaError, as are combinations that cannot be enforced. None is passed over in silence.
//
// Answers are a part of what the schema allows, where that is what its writer means, or keeps answers in bounds:
//   - Properties come in the order of the schema; those that are not required may be left out.
//   - An object with properties has no others, unless additionalProperties allows them; those come last, and nothing
//     keeps them from having one name twice.
//   - Keywords for one type, without type, mean this type.
//   - oneOf is anyOf; that no value fits two of its schemas must follow from types, from constants, or from required
//     properties. A property that tells its objects apart by constants is required.
//   - A text of given pattern or format has no escapes but those it needs.
//   - Numbers have at most 18 digits before the point and 16 behind it; with bounds they have no exponent.
//   - Blanks are bounded: see the variable blanks.
func JSONSchema(schema json.RawMessage) (*Grammar, error) {
	root, err := parseJSON(schema)
	if err != nil {
		return nil, fmt.Errorf("grammar: schema: %w", err)
	}
	r := &schemaReader{root: root, rules: map[string]*rule{}, ids: map[*jsonValue]int{}, strings: map[stringKey]expr{}}
	e := r.expr(schemas{{value: root, path: "#"}})
	if r.err != nil {
		return nil, r.err
	}
	g, err := compile(e)
	if err != nil {
		return nil, fmt.Errorf("grammar: schema: %s", strings.TrimPrefix(err.Error(), "grammar: "))
	}
	return g, nil
}

// SchemaError says what of a schema cannot be enforced.
type SchemaError struct {
	Path    string // of the schema, as a JSON pointer: #/properties/name
	Keyword string // "": the schema itself
	Reason  string
}

func (e *SchemaError) Error() string {
	if e.Keyword == "" {
		return fmt.Sprintf("grammar: schema: %s: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("grammar: schema: %s: %s: %s", e.Path, e.Keyword, e.Reason)
}

// schemaAt is a schema and where it stands.
type schemaAt struct {
	value *jsonValue
	path  string
	done  string // "anyOf", "oneOf": the keyword whose choice has been made already; "anyOf,oneOf": both
	flat  bool   // what it refers to stands beside it already
}

// schemas is what one value has to follow: all of them.
type schemas []schemaAt

// schemaReader makes expressions of schemas. The first error stays.
type schemaReader struct {
	root  *jsonValue
	rules map[string]*rule // by key
	ids   map[*jsonValue]int
	count int
	err   error

	strings map[stringKey]expr
}

func (r *schemaReader) fail(at schemaAt, keyword, format string, args ...any) {
	if r.err == nil {
		r.err = &SchemaError{at.path, keyword, fmt.Sprintf(format, args...)}
	}
}

// key names a set of schemas.
func (r *schemaReader) key(all schemas) string {
	var out []string
	for _, s := range all {
		id, ok := r.ids[s.value]
		if !ok {
			id = len(r.ids)
			r.ids[s.value] = id
		}
		name := strconv.Itoa(id) + s.done
		if s.flat {
			name += "."
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

// never matches nothing. What needs it is cut off with it.
var never = choice{}

// expr is the expression of values that follow all of the schemas: a call of a rule, so that they may be recursive.
func (r *schemaReader) expr(all schemas) expr {
	if r.err != nil {
		return never
	}
	if len(all) == 0 {
		return anyValue
	}
	key := r.key(all)
	if known := r.rules[key]; known != nil {
		return call{known}
	}
	if r.count += len(all); r.count > mostExpansions {
		r.fail(all[0], "", "too large: want at most %d schemas when references and combinations are expanded", mostExpansions)
		return never
	}
	known := &rule{name: all[0].path}
	r.rules[key] = known
	known.body = r.body(all)
	return call{known}
}

func (r *schemaReader) body(all schemas) expr {
	n := r.read(all)
	if r.err != nil {
		return never
	}
	if n.choiceOf != nil {
		return r.choice(n)
	}
	if n.values != nil {
		return r.enum(n)
	}
	if n.free() {
		return anyValue
	}
	var out choice
	for _, t := range []struct {
		bit types
		of  func(*node) expr
	}{
		{objectType, r.object}, {arrayType, r.array}, {stringType, r.string}, {numberType, r.number},
		{booleanType, func(*node) expr { return anyBoolean }}, {nullType, func(*node) expr { return null }},
	} {
		if n.types&t.bit != 0 {
			out = append(out, t.of(n))
		}
	}
	return out
}

// choice takes the schemas of the first anyOf or oneOf in turn.
func (r *schemaReader) choice(n *node) expr {
	at := n.all[n.choiceAt]
	keyword := n.choiceKeyword
	rest := slices.Clone(n.all)
	if rest[n.choiceAt].done != "" {
		rest[n.choiceAt].done = "anyOf,oneOf"
	} else {
		rest[n.choiceAt].done = keyword
	}
	var out choice
	var each []schemas
	for i, v := range n.choiceOf.items {
		each = append(each, append(slices.Clone(rest), schemaAt{value: v, path: at.path + "/" + keyword + "/" + strconv.Itoa(i)}))
	}
	if name, ok := r.discriminator(each, keyword); ok {
		need := &jsonValue{kind: '{', keys: []string{"required"}, items: []*jsonValue{{kind: '[', items: []*jsonValue{{kind: '"', text: name}}}}}
		for i := range each {
			each[i] = append(each[i], schemaAt{value: need, path: at.path})
		}
	}
	for _, all := range each {
		out = append(out, r.expr(all))
	}
	if keyword == "oneOf" {
		for i := range each {
			for j := range i {
				if r.count++; r.count > mostExpansions {
					r.fail(at, keyword, "too large")
					return never
				}
				if !r.apart(each[j], each[i], 0) {
					r.fail(at, keyword, "a value may fit both schema %d and schema %d: want different types, constants or required properties (or anyOf)", j, i)
					return never
				}
			}
		}
	}
	return out
}

// discriminator finds the member that tells the objects of a oneOf apart, of which each schema lists other constants. It
// need not be required: a text without it would fit several.
func (r *schemaReader) discriminator(each []schemas, keyword string) (name string, ok bool) {
	if keyword != "oneOf" {
		return "", false
	}
	var nodes []*node
	for _, all := range each {
		r.count += len(all)
		n := r.read(all)
		if r.err != nil || n.types != objectType || n.choiceOf != nil || n.values != nil {
			return "", false
		}
		nodes = append(nodes, n)
	}
names:
	for _, name := range nodes[0].names() {
		var constants []*jsonValue
		for _, n := range nodes {
			if r.count++; r.count > mostExpansions {
				return "", false // the caller says so
			}
			one := r.read(n.property(name))
			if r.err != nil || one.values == nil || slices.ContainsFunc(one.values, func(v *jsonValue) bool { return slices.ContainsFunc(constants, v.equal) }) {
				continue names
			}
			constants = append(constants, one.values...)
		}
		return name, true
	}
	return "", false
}

// enum takes the values that the other keywords allow.
func (r *schemaReader) enum(n *node) expr {
	var others *Grammar
	if n.limits != 0 { // let the grammar of the other keywords judge
		rest := slices.Clone(n.all)
		for i := range rest {
			v := *rest[i].value
			v.keys, v.items = nil, nil
			for k, key := range rest[i].value.keys {
				if key != "enum" && key != "const" && key != "$ref" && key != "allOf" {
					v.keys, v.items = append(v.keys, key), append(v.items, rest[i].value.items[k])
				}
			}
			rest[i].value = &v
		}
		g, err := compile(r.expr(rest))
		if r.err != nil {
			return never
		}
		if err != nil { // nothing follows them
			return never
		}
		others = g
	}
	var out choice
	for _, v := range n.values {
		text := v.String()
		if typesOf(v)&n.types != 0 && (others == nil || others.Matches(text)) {
			out = append(out, literal(text))
		}
	}
	return out
}

// typesOf are the types of a value; one integer is also a number.
func typesOf(v *jsonValue) types {
	switch v.kind {
	case '{':
		return objectType
	case '[':
		return arrayType
	case '"':
		return stringType
	case 't':
		return booleanType
	case '0':
		if x, err := rational(v.text); err == nil && x.IsInt() {
			return integerType
		}
		return fractionType
	}
	return nullType
}

// apart says whether no value written for the schemas a fits b, nor the other way round. It is sure where it says so.
func (r *schemaReader) apart(a, b schemas, depth int) bool {
	if depth > 4 || r.err != nil {
		return false
	}
	x, y := r.read(a), r.read(b)
	if r.err != nil {
		return false
	}
	if x.types&y.types == 0 {
		return true
	}
	if x.choiceOf != nil || y.choiceOf != nil {
		return false
	}
	if x.values != nil && y.values != nil {
		return !slices.ContainsFunc(x.values, func(v *jsonValue) bool { return slices.ContainsFunc(y.values, v.equal) })
	}
	if x.values != nil || y.values != nil {
		return false
	}
	if x.types&y.types != objectType {
		return false
	}
	for _, name := range x.required {
		if slices.Contains(y.required, name) && r.apart(x.property(name), y.property(name), depth+1) {
			return true
		}
	}
	lacks := func(x, y *node) bool { // y requires what x never has
		return slices.ContainsFunc(y.required, func(name string) bool { return x.closed() && x.patterns() == 0 && x.property(name) == nil })
	}
	return lacks(x, y) && lacks(y, x)
}

// equal compares values as JSON schema does: numbers by value, members in any order.
func (v *jsonValue) equal(w *jsonValue) bool {
	if v.kind != w.kind || len(v.items) != len(w.items) {
		return false
	}
	switch v.kind {
	case '0':
		x, err1 := rational(v.text)
		y, err2 := rational(w.text)
		return err1 == nil && err2 == nil && x.Cmp(y) == 0
	case '{':
		for i, k := range v.keys {
			if other := w.get(k); other == nil || !v.items[i].equal(other) {
				return false
			}
		}
		return true
	}
	for i := range v.items {
		if !v.items[i].equal(w.items[i]) {
			return false
		}
	}
	return v.text == w.text
}

// rational reads a JSON number exactly.
func rational(text string) (*big.Rat, error) {
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		if e, err := strconv.Atoi(text[i+1:]); err != nil || e < -400 || e > 400 {
			return nil, fmt.Errorf("want an exponent from -400 to 400, got %s", text)
		}
	}
	x, ok := new(big.Rat).SetString(text)
	if !ok || len(text) > 1000 {
		return nil, fmt.Errorf("want a number of at most 1000 digits, got %.40s", text)
	}
	return x, nil
}
