package toolcall

import (
	"bytes"
	"encoding/json"
	"fmt"

	"chulengo/internal/grammar"
)

// Tool is what a constraint needs of a tool.
type Tool struct {
	Name       string
	Parameters json.RawMessage // JSON schema; none: any object
}

// mostCalls bounds the calls of one answer that is held to calling.
const mostCalls = 16

// Constraint is the grammar of an answer that consists of calls, in the JSON form. choice is "required", or the name of the one
// tool to call. parallel admits several calls, where no name is given. Errors name the tool.
func Constraint(tools []Tool, choice string, parallel bool) (*grammar.Grammar, error) {
	var calls []*grammar.Grammar
	for _, t := range tools {
		if choice != "required" && t.Name != choice {
			continue
		}
		call, err := oneCall(t)
		if err != nil {
			return nil, fmt.Errorf("tool %s: %w", t.Name, err)
		}
		calls = append(calls, call)
	}
	if len(calls) == 0 {
		return nil, fmt.Errorf("toolcall: want a tool %q among %d, got none", choice, len(tools))
	}
	any, err := grammar.Choice(calls...)
	if err != nil || !parallel || choice != "required" {
		return any, err
	}
	separator, err := grammar.Literal("; ")
	if err != nil {
		return nil, err
	}
	another, err := grammar.Sequence(separator, any)
	if err != nil {
		return nil, err
	}
	others, err := grammar.Repeat(another, 0, mostCalls-1)
	if err != nil {
		return nil, err
	}
	return grammar.Sequence(any, others)
}

func oneCall(t Tool) (*grammar.Grammar, error) {
	schema, err := ofObjects(t.Parameters)
	if err != nil {
		return nil, err
	}
	arguments := grammar.JSONObject()
	if schema != nil {
		if arguments, err = grammar.JSONSchema(schema); err != nil {
			return nil, err
		}
	}
	open, err := grammar.Literal(`{"name": ` + quote(t.Name) + `, "parameters": `)
	if err != nil {
		return nil, err
	}
	shut, err := grammar.Literal("}")
	if err != nil {
		return nil, err
	}
	return grammar.Sequence(open, arguments, shut)
}

// ofObjects gives a tool's schema such that only objects follow it: clients leave out that arguments are an object. nil: any object.
func ofObjects(schema json.RawMessage) (json.RawMessage, error) {
	text := bytes.TrimSpace(schema)
	if len(text) == 0 || string(text) == "null" || string(text) == "true" {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("parameters: want a JSON schema: %w", err)
	}
	switch kind, typed := fields["type"]; {
	case len(fields) == 0:
		return nil, nil
	case !typed:
		return append([]byte(`{"type": "object", `), text[1:]...), nil
	case string(kind) != `"object"` && string(kind) != `["object"]`:
		return nil, fmt.Errorf("parameters: want a schema of type object, got %s", kind)
	}
	return text, nil
}
