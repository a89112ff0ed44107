package grammar

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
)

// list is min to max of an expression between signs, with commas; max < 0: no bound.
func list(open string, of expr, min, max int, shut string) expr {
	out := choice{}
	if min == 0 {
		out = append(out, literal(shut))
	}
	if max != 0 {
		if max > 0 {
			max--
		}
		if min > 0 {
			min--
		}
		out = append(out, sequence{of, repeat{sequence{comma, of}, min, max}, blanks, literal(shut)})
	}
	return sequence{literal(open), blanks, out}
}

func (r *schemaReader) array(n *node) expr {
	var prefix []schemas
	rest := schemas{}
	ended := false // items: false
	for _, at := range n.all {
		first, more, moreName := at.value.get("prefixItems"), at.value.get("items"), "items"
		firstName := "prefixItems"
		if more != nil && more.kind == '[' { // as before draft 2020-12
			first, firstName, more, moreName = more, "items", at.value.get("additionalItems"), "additionalItems"
		}
		listed := 0
		if first != nil {
			if first.kind != '[' {
				r.fail(at, firstName, "want a list of schemas, got %s", first.what())
				return never
			}
			listed = len(first.items)
			for i, v := range first.items {
				if i == len(prefix) {
					prefix = append(prefix, slices.Clone(rest)) // what other schemas say about all
				}
				prefix[i] = append(prefix[i], schemaAt{value: v, path: fmt.Sprintf("%s/%s/%d", at.path, firstName, i)})
			}
		}
		if more != nil {
			s := schemaAt{value: more, path: at.path + "/" + moreName}
			for i := listed; i < len(prefix); i++ {
				prefix[i] = append(prefix[i], s)
			}
			rest = append(rest, s)
			ended = ended || more.kind == 't' && more.text == "false"
		}
	}
	highest := n.maxItems
	if ended {
		highest = least(highest, len(prefix))
	}
	if highest >= 0 && highest < n.minItems {
		return never
	}
	if len(prefix) > 0 && highest >= 0 && highest < len(prefix) {
		prefix = prefix[:highest]
	}
	if n.unique && (highest < 0 || highest > 1) {
		if len(prefix) > 0 {
			r.fail(n.says("uniqueItems"), "uniqueItems", "cannot be enforced together with prefixItems")
			return never
		}
		return r.uniqueArray(n, rest, highest)
	}
	var item expr = anyValue
	if len(rest) > 0 && (highest < 0 || highest > len(prefix)) {
		item = r.expr(rest)
	}
	if len(prefix) == 0 {
		if n.minItems == 0 && highest < 0 && len(rest) == 0 {
			return anyArray
		}
		return list("[", item, n.minItems, highest, "]")
	}
	left := -1
	if highest >= 0 {
		left = highest - len(prefix)
	}
	end := sequence{blanks, literal("]")}
	var out expr = sequence{repeat{sequence{comma, item}, max(0, n.minItems-len(prefix)), left}, end}
	for i, at := range slices.Backward(prefix) {
		var value expr = anyValue
		if len(at) > 0 {
			value = r.expr(at)
		}
		out = sequence{value, out}
		switch {
		case i > 0 && i >= n.minItems:
			out = choice{end, sequence{comma, out}}
		case i > 0:
			out = sequence{comma, out}
		case n.minItems == 0:
			out = choice{literal("]"), out}
		}
		if i%8 == 0 { // keep expressions flat
			out = named("prefixItems/"+strconv.Itoa(i), out)
		}
	}
	return sequence{literal("["), blanks, out}
}

// mostUnique bounds the constants of an array without repetitions: there is a rule for each set of them.
const mostUnique = 8

// uniqueArray is an array of constants, each at most once.
func (r *schemaReader) uniqueArray(n *node, items schemas, highest int) expr {
	var texts []literal
	item := r.read(items)
	if r.err != nil {
		return never
	}
	values := item.values
	if values == nil && item.types == booleanType {
		values = []*jsonValue{{kind: 't', text: "true"}, {kind: 't', text: "false"}}
	}
	if values == nil || item.choiceOf != nil || item.limits != 0 {
		r.fail(n.says("uniqueItems"), "uniqueItems", "cannot be enforced unless items are constants (enum)")
		return never
	}
	for i, v := range values {
		if typesOf(v)&item.types != 0 && !slices.ContainsFunc(values[:i], v.equal) {
			texts = append(texts, literal(v.String()))
		}
	}
	if len(texts) > mostUnique {
		r.fail(n.says("uniqueItems"), "uniqueItems", "cannot be enforced for more than %d constants", mostUnique)
		return never
	}
	rules := make([]*rule, 1<<len(texts)) // by the set of constants that are there
	for set := range rules {
		rules[set] = &rule{name: "uniqueItems"}
	}
	for set, at := range rules {
		var body choice
		size := bits.OnesCount(uint(set))
		if size >= n.minItems {
			if size > 0 {
				body = append(body, sequence{blanks, literal("]")})
			} else {
				body = append(body, literal("]"))
			}
		}
		for i, text := range texts {
			if set>>i&1 == 1 || size == highest {
				continue
			}
			next := sequence{text, call{rules[set|1<<i]}}
			if size > 0 {
				next = slices.Insert(next, 0, expr(comma))
			}
			body = append(body, next)
		}
		at.body = body
	}
	return sequence{literal("["), blanks, call{rules[0]}}
}
