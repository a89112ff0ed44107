package grammar

import "slices"

// property gives the schemas of a member, or, for a name that no schema lists, of additional ones; nil: it is not
// allowed.
func (n *node) property(name string) schemas {
	out := schemas{}
	listed := false
	for _, at := range n.all {
		if props := at.value.get("properties"); props != nil {
			if v := props.get(name); v != nil {
				out = append(out, schemaAt{value: v, path: at.path + "/properties/" + name})
				listed = true
				continue
			}
		}
		if v := at.value.get("additionalProperties"); v != nil {
			if v.kind == 't' && v.text == "false" {
				return nil
			}
			out = append(out, schemaAt{value: v, path: at.path + "/additionalProperties"})
		}
	}
	if !listed && n.closed() && !slices.Contains(n.required, name) {
		return nil
	}
	return out
}

// names are the members that the schemas list or require, in their order.
func (n *node) names() (names []string) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, at := range n.all {
		if props := at.value.get("properties"); props != nil {
			for _, name := range props.keys {
				add(name)
			}
		}
	}
	for _, name := range n.required {
		add(name)
	}
	return names
}

// closed says whether there are no members but those listed.
func (n *node) closed() bool {
	listed, open := n.patterns() > 0, false
	for _, at := range n.all {
		listed = listed || at.value.get("properties") != nil
		if v := at.value.get("additionalProperties"); v != nil {
			if v.kind == 't' && v.text == "false" {
				return true
			}
			open = true
		}
	}
	return listed && !open
}

func (r *schemaReader) object(n *node) expr {
	names := n.names()
	closed := n.closed()
	if len(names) == 0 && !closed && n.minProps == 0 && n.maxProps < 0 && len(n.keys) == 0 {
		if extra := n.additional(); len(extra) == 0 || extra[0].value.kind == 't' && len(extra) == 1 {
			return anyObject
		}
	}
	more := r.others(n, names)
	closed = closed && n.patterns() == 0
	switch counted := n.minProps > len(n.required) || n.maxProps >= 0 && (!closed || n.maxProps < len(names)); {
	case counted && len(names) > 0:
		keyword := "minProperties"
		if n.minProps <= len(n.required) {
			keyword = "maxProperties"
		}
		r.fail(n.says(keyword), keyword, "cannot be enforced together with properties")
		return never
	case counted:
		return list("{", more, n.minProps, n.maxProps, "}")
	}
	// Rules for the members from each on: first is before any has been written, next is after one. The last end the object.
	first := choice{literal("}"), sequence{more, star(sequence{comma, more}), blanks, literal("}")}}
	next := choice{sequence{star(sequence{comma, more}), blanks, literal("}")}}
	for _, name := range slices.Backward(names) {
		var member expr = never
		if value := n.property(name); value != nil {
			member = sequence{literal(quoted(name) + ":"), blanks, r.expr(value)}
		}
		afterFirst, afterNext := named("", first), named("", next)
		first, next = choice{sequence{member, afterNext}}, choice{sequence{comma, member, afterNext}}
		if !slices.Contains(n.required, name) {
			first, next = append(first, afterFirst), append(next, afterNext)
		}
	}
	return sequence{literal("{"), blanks, first}
}

// others is one member that is not listed.
func (r *schemaReader) others(n *node, names []string) expr {
	var key, value expr = otherKey(names), anyValue
	if len(n.keys) > 0 {
		if len(names) > 0 {
			r.fail(n.says("propertyNames"), "propertyNames", "cannot be enforced together with properties or required")
			return never
		}
		key = r.expr(append(slices.Clone(n.keys), schemaAt{value: onlyStrings, path: n.keys[0].path}))
	}
	extra := n.additional()
	if n.patterns() > 0 {
		at := n.says("patternProperties")
		all := at.value.get("patternProperties")
		if n.patterns() > 1 || len(names) > 0 || len(n.keys) > 0 || !n.closed() {
			r.fail(at, "patternProperties", "cannot be enforced unless it is one pattern, without properties, required, additionalProperties and propertyNames")
			return never
		}
		key = r.expr(schemas{{value: &jsonValue{kind: '{', keys: []string{"type", "pattern"},
			items: []*jsonValue{{kind: '"', text: "string"}, {kind: '"', text: all.keys[0]}}}, path: at.path + "/patternProperties"}})
		extra = schemas{{value: all.items[0], path: at.path + "/patternProperties/" + all.keys[0]}}
	} else if n.closed() {
		return never
	}
	if len(extra) > 0 {
		value = r.expr(extra)
	}
	return sequence{key, literal(":"), blanks, value}
}

// onlyStrings is the schema of strings.
var onlyStrings = &jsonValue{kind: '{', keys: []string{"type"}, items: []*jsonValue{{kind: '"', text: "string"}}}

// patterns counts the patterns of patternProperties.
func (n *node) patterns() (count int) {
	for _, at := range n.all {
		if v := at.value.get("patternProperties"); v != nil {
			count += len(v.keys)
		}
	}
	return count
}

// additional gives the schemas of members that are not listed.
func (n *node) additional() (out schemas) {
	for _, at := range n.all {
		if v := at.value.get("additionalProperties"); v != nil {
			out = append(out, schemaAt{value: v, path: at.path + "/additionalProperties"})
		}
	}
	return out
}

// says finds the schema that has a keyword, for errors.
func (n *node) says(keyword string) schemaAt {
	for _, at := range n.all {
		if at.value.get(keyword) != nil {
			return at
		}
	}
	return n.all[0]
}

// otherKey is a key that is none of names. With names to keep away from it has no escapes, which could write one of them.
func otherKey(names []string) expr {
	if len(names) == 0 {
		return anyString
	}
	rest := named("key", sequence{star(bareChar), literal(`"`)})
	var except func(names []string, from int) expr
	except = func(names []string, from int) expr { // names begin alike, up to from
		out := choice{}
		byFirst := map[rune][]string{}
		var firsts []rune
		ended := false
		for _, name := range names {
			if from == len(name) {
				ended = true
				continue
			}
			for _, c := range name[from:] {
				if byFirst[c] == nil {
					firsts = append(firsts, c)
				}
				byFirst[c] = append(byFirst[c], name)
				break
			}
		}
		if !ended {
			out = append(out, literal(`"`))
		}
		out = append(out, sequence{bareChar.without(chars(string(firsts))), rest})
		for _, c := range firsts {
			if bare := chars(string(c)).within(bareChar); len(bare) > 0 {
				out = append(out, sequence{bare, except(byFirst[c], from+len(string(c)))})
			}
		}
		return out
	}
	return sequence{literal(`"`), except(names, 0)}
}
