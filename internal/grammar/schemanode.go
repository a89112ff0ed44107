package grammar

import (
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// types is a set of the types of JSON schema.
type types uint8

const (
	nullType types = 1 << iota
	booleanType
	integerType
	fractionType // numbers that are no integers
	stringType
	arrayType
	objectType

	numberType = integerType | fractionType
	allTypes   = nullType | booleanType | numberType | stringType | arrayType | objectType
)

var typeNames = map[string]types{
	"null": nullType, "boolean": booleanType, "integer": integerType, "number": numberType,
	"string": stringType, "array": arrayType, "object": objectType,
}

// node is what several schemas say together.
type node struct {
	all    schemas // with the schemas that they refer to
	types  types
	limits types        // types that other keywords say something about
	values []*jsonValue // of enum or const; nil: any

	choiceOf      *jsonValue // the schemas of an anyOf or oneOf; nil: none is left
	choiceAt      int        // of the schema in all
	choiceKeyword string

	minLength, maxLength int    // < 0: no bound
	pattern              string // of pattern or format
	patternKeyword       string
	patternAt            schemaAt

	min, max         *big.Rat // nil: no bound
	minOpen, maxOpen bool     // the bound itself is not allowed
	decimals         int      // behind the point; < 0: any

	minItems, maxItems int
	unique             bool
	minProps, maxProps int
	required           []string
	keys               schemas // of propertyNames
}

func (n *node) free() bool { return n.types == allTypes && n.limits == 0 }

// notes are keywords that say nothing about values, or that others refer to.
var notes = []string{
	"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "example",
	"markdownDescription", "enumDescriptions", "enumNames", "propertyOrdering", "$anchor",
	"deprecated", "readOnly", "writeOnly", "discriminator", "contentMediaType", "contentEncoding", "externalDocs", "xml",
}

// keywordTypes are the types that a keyword says something about.
var keywordTypes = map[string]types{
	"properties": objectType, "required": objectType, "additionalProperties": objectType, "minProperties": objectType, "maxProperties": objectType,
	"propertyNames": objectType, "patternProperties": objectType,
	"items": arrayType, "prefixItems": arrayType, "minItems": arrayType, "uniqueItems": arrayType, "maxItems": arrayType, "additionalItems": arrayType,
	"minLength": stringType, "maxLength": stringType, "pattern": stringType,
	"minimum": numberType, "maximum": numberType, "exclusiveMinimum": numberType, "exclusiveMaximum": numberType, "multipleOf": numberType,
}

// read puts together what all schemas say about a value itself; the schemas of its parts are looked up when they are
// needed.
func (r *schemaReader) read(all schemas) *node {
	n := &node{types: allTypes, maxLength: -1, decimals: -1, maxItems: -1, maxProps: -1}
	typed := false
	todo := slices.Clone(all)
	for i := 0; i < len(todo) && r.err == nil; i++ {
		at := todo[i]
		if same := slices.IndexFunc(todo[:i], func(s schemaAt) bool { return s.value == at.value }); same >= 0 {
			if todo[same].done != at.done {
				r.fail(at, "", "stands within its own anyOf or oneOf")
			}
			todo = slices.Delete(todo, i, i+1) // once is enough, and allOf may come back to where it began
			i--
			continue
		}
		if len(todo) > mostExpansions {
			r.fail(at, "", "too large")
		}
		switch {
		case at.value.kind == 't' && at.value.text == "true":
			continue
		case at.value.kind == 't':
			n.types = 0
			continue
		case at.value.kind != '{':
			r.fail(at, "", "want a schema: an object or a boolean, got %s", at.value.what())
			continue
		}
		for k, keyword := range at.value.keys {
			v := at.value.items[k]
			sub := schemaAt{value: v, path: at.path + "/" + keyword}
			switch keyword {
			case "$ref":
				if at.flat {
					continue
				}
				if to := r.target(at, v); to != nil {
					todo = append(todo, schemaAt{value: to, path: v.text})
				}
			case "allOf":
				if r.list(at, keyword, v) && !at.flat {
					for j, s := range v.items {
						todo = append(todo, schemaAt{value: s, path: sub.path + "/" + strconv.Itoa(j)})
					}
				}
			case "anyOf", "oneOf":
				if r.list(at, keyword, v) && n.choiceOf == nil && !strings.Contains(at.done, keyword) {
					n.choiceOf, n.choiceAt, n.choiceKeyword = v, i, keyword
				}
			case "type":
				typed = true
				n.types &= r.typesIn(at, v)
			case "nullable":
				if v.kind != 't' || at.value.get("type") == nil {
					r.fail(at, keyword, "want true or false, with a type beside it")
				}
			case "enum":
				if r.list(at, keyword, v) {
					n.restrict(v.items)
				}
			case "const":
				n.restrict([]*jsonValue{v})
			default:
				r.limit(n, at, keyword, v)
			}
		}
	}
	for i := range todo {
		todo[i].flat = true
	}
	n.all = todo
	if n.values != nil {
		var given types
		for _, v := range n.values {
			given |= typesOf(v)
		}
		n.types &= given
	}
	if !typed && n.limits != 0 && n.choiceOf == nil && n.values == nil {
		n.types &= n.limits
	}
	n.limits &= n.types
	return n
}

// list checks the values of anyOf and the like.
func (r *schemaReader) list(at schemaAt, keyword string, v *jsonValue) bool {
	if v.kind != '[' || len(v.items) == 0 {
		r.fail(at, keyword, "want a list that is not empty, got %s", v.what())
		return false
	}
	return true
}

// restrict keeps the values that are also in more.
func (n *node) restrict(more []*jsonValue) {
	if n.values == nil {
		n.values = more
		return
	}
	kept := []*jsonValue{}
	for _, v := range n.values {
		if slices.ContainsFunc(more, v.equal) {
			kept = append(kept, v)
		}
	}
	n.values = kept
}

func (r *schemaReader) typesIn(at schemaAt, v *jsonValue) types {
	var t types
	names := []*jsonValue{v}
	if v.kind == '[' {
		names = v.items
	}
	for _, name := range names {
		bit, ok := typeNames[name.text]
		if !ok || name.kind != '"' {
			r.fail(at, "type", "want null, boolean, integer, number, string, array, object or a list of them, got %s", v)
		}
		t |= bit
	}
	if nullable := at.value.get("nullable"); nullable != nil && nullable.text == "true" {
		t |= nullType
	}
	return t
}

// limit reads a keyword that says something about values of one type.
func (r *schemaReader) limit(n *node, at schemaAt, keyword string, v *jsonValue) {
	if slices.Contains(notes, keyword) || strings.HasPrefix(keyword, "x-") {
		return
	}
	n.limits |= keywordTypes[keyword]
	switch keyword {
	case "properties":
		if v.kind != '{' {
			r.fail(at, keyword, "want an object, got %s", v.what())
		}
	case "additionalProperties", "prefixItems", "items", "additionalItems": // looked up when needed
	case "patternProperties":
		if v.kind != '{' {
			r.fail(at, keyword, "want an object, got %s", v.what())
		}
	case "propertyNames":
		n.keys = append(n.keys, schemaAt{value: v, path: at.path + "/propertyNames"})
	case "not":
		if v.kind == 't' && v.text == "true" || v.kind == '{' && len(v.keys) == 0 {
			n.types = 0
		} else {
			r.fail(at, keyword, "is supported for true and {} only")
		}
	case "required":
		if v.kind != '[' {
			r.fail(at, keyword, "want a list of names, got %s", v.what())
		}
		for _, name := range v.items {
			if name.kind != '"' {
				r.fail(at, keyword, "want a list of names, got %s in it", name.what())
			} else if !slices.Contains(n.required, name.text) {
				n.required = append(n.required, name.text)
			}
		}
	case "minProperties":
		n.minProps = max(n.minProps, r.size(at, keyword, v))
	case "maxProperties":
		n.maxProps = least(n.maxProps, r.size(at, keyword, v))
	case "minItems":
		n.minItems = max(n.minItems, r.size(at, keyword, v))
	case "maxItems":
		n.maxItems = least(n.maxItems, r.size(at, keyword, v))
	case "minLength":
		n.minLength = max(n.minLength, r.size(at, keyword, v))
	case "maxLength":
		n.maxLength = least(n.maxLength, r.size(at, keyword, v))
	case "pattern", "format":
		r.patternIn(n, at, keyword, v)
	case "minimum", "exclusiveMinimum":
		if x := r.bound(at, keyword, v); x != nil && (n.min == nil || x.Cmp(n.min) > 0 || x.Cmp(n.min) == 0 && keyword != "minimum") {
			n.min, n.minOpen = x, keyword != "minimum"
		}
	case "maximum", "exclusiveMaximum":
		if x := r.bound(at, keyword, v); x != nil && (n.max == nil || x.Cmp(n.max) < 0 || x.Cmp(n.max) == 0 && keyword != "maximum") {
			n.max, n.maxOpen = x, keyword != "maximum"
		}
	case "multipleOf":
		if x := r.bound(at, keyword, v); x != nil {
			r.multiple(n, at, x)
		}
	case "uniqueItems":
		if v.kind != 't' {
			r.fail(at, keyword, "want true or false, got %s", v.what())
		}
		n.unique = n.unique || v.text == "true"
	default:
		r.fail(at, keyword, "is not supported")
	}
}

func least(a, b int) int {
	if a < 0 {
		return b
	}
	return min(a, b)
}

// size reads a count; larger ones than an automaton can have states are all the same.
func (r *schemaReader) size(at schemaAt, keyword string, v *jsonValue) int {
	x, err := rational(v.text)
	if v.kind != '0' || err != nil || !x.IsInt() || x.Sign() < 0 {
		r.fail(at, keyword, "want a number 0, 1, 2, …, got %s", v)
		return 0
	}
	if x.Cmp(big.NewRat(mostStates, 1)) > 0 {
		return mostStates + 1
	}
	return int(x.Num().Int64())
}

func (r *schemaReader) bound(at schemaAt, keyword string, v *jsonValue) *big.Rat {
	if v.kind != '0' {
		r.fail(at, keyword, "want a number, got %s", v.what())
		return nil
	}
	x, err := rational(v.text)
	if err != nil {
		r.fail(at, keyword, "%v", err)
		return nil
	}
	return x
}

// multiple reads multipleOf: of 1 are the integers, of 0.01 the numbers with two decimals.
func (r *schemaReader) multiple(n *node, at schemaAt, of *big.Rat) {
	places, x := 0, new(big.Rat).Set(of)
	for one := big.NewRat(1, 1); x.Sign() > 0 && x.Cmp(one) < 0 && places < 16; places++ {
		x.Mul(x, big.NewRat(10, 1))
	}
	if x.Cmp(big.NewRat(1, 1)) != 0 {
		r.fail(at, "multipleOf", "want 1, 0.1, 0.01, …: others cannot be enforced")
	}
	if n.decimals = least(n.decimals, places); places == 0 {
		n.types &^= fractionType
	}
}

// target finds what a $ref refers to.
func (r *schemaReader) target(at schemaAt, ref *jsonValue) *jsonValue {
	path, ok := strings.CutPrefix(ref.text, "#")
	if ref.kind != '"' || !ok || path != "" && path[0] != '/' {
		r.fail(at, "$ref", `want a reference within the schema, like "#/$defs/name", got %s`, ref)
		return nil
	}
	to := r.root
	for _, step := range strings.Split(path, "/")[1:] {
		if s, err := url.PathUnescape(step); err == nil {
			step = s
		}
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		next := to.get(step)
		if i, err := strconv.Atoi(step); err == nil && to.kind == '[' && i >= 0 && i < len(to.items) {
			next = to.items[i]
		}
		if to = next; to == nil {
			r.fail(at, "$ref", "%s is not there", ref)
			return nil
		}
	}
	return to
}
