package completion

import (
	"container/list"
	"fmt"
	"strings"
	"sync"

	"chulengo/engine"
	"chulengo/internal/grammar"
	"chulengo/internal/toolcall"
)

// constrain gives what a request's answers are held to; nil: nothing.
func (c *Core) constrain(r *Request) (engine.Constraint, error) {
	forced := r.ToolChoice.Mode == ToolRequired || r.ToolChoice.Mode == ToolNamed
	var g *grammar.Grammar
	var err error
	switch f := &r.Format; {
	case forced && f.any():
		return nil, Invalid(f.Param, "与强制调用工具的 tool_choice 不能同时使用", "cannot be combined with a tool_choice that forces a call")
	case forced:
		if g, err = c.grammars.get(forcedKey(r), func() (*grammar.Grammar, error) { return forcedCalls(r) }); err != nil {
			return nil, Invalid("tools", "不能用来约束回答：%v", "cannot be enforced: %v", err)
		}
	case f.any():
		if g, err = c.grammars.get(f.key(), f.compile); err != nil {
			return nil, Invalid(f.Param, "不能用来约束回答：%v", "cannot be enforced: %v", err)
		}
	default:
		return nil, nil
	}
	if r.IgnoreEOS {
		return nil, Invalid("ignore_eos", "与受约束的回答不能同时使用", "cannot be combined with an answer that is held to a grammar")
	}
	return constraint{g.Matcher(c.vocabulary())}, nil
}

// constraint is a matcher as engines know it.
type constraint struct{ *grammar.Matcher }

// Clone implements engine.Constraint.
func (c constraint) Clone() engine.Constraint { return constraint{c.Matcher.Clone()} }

// compile builds the grammar of a format.
func (f *Format) compile() (*grammar.Grammar, error) {
	switch {
	case len(f.Schema) > 0:
		return grammar.JSONSchema(f.Schema)
	case f.Regex != "":
		return grammar.Regex(f.Regex)
	case f.EBNF != "":
		return grammar.EBNF(f.EBNF)
	}
	return grammar.JSONObject(), nil
}

// key names the grammar of a format.
func (f *Format) key() string {
	return fmt.Sprintf("%t\x00%s\x00%s\x00%s", f.JSON, f.Schema, f.Regex, f.EBNF)
}

// forcedCalls builds the grammar of the calls that a request wants to have.
func forcedCalls(r *Request) (*grammar.Grammar, error) {
	var tools []toolcall.Tool
	for _, t := range r.Tools {
		tools = append(tools, toolcall.Tool{Name: t.Name, Parameters: t.Parameters})
	}
	choice := "required"
	if r.ToolChoice.Mode == ToolNamed {
		choice = r.ToolChoice.Name
	}
	return toolcall.Constraint(tools, choice, !r.NoParallelCalls)
}

func forcedKey(r *Request) string {
	var key strings.Builder
	fmt.Fprintf(&key, "tools\x00%q\x00%t", r.ToolChoice.Name, r.NoParallelCalls)
	for _, t := range r.Tools {
		fmt.Fprintf(&key, "\x00%s\x00%s", t.Name, t.Parameters)
	}
	return key.String()
}

// grammars remembers the grammars of late: clients send the same schema with every request.
type grammars struct {
	mu    sync.Mutex
	order list.List // of *compiled; the one used last is at the front
	byKey map[string]*list.Element
}

type compiled struct {
	key     string
	grammar *grammar.Grammar
}

// mostGrammars bounds what is remembered.
const mostGrammars = 64

func (g *grammars) get(key string, compile func() (*grammar.Grammar, error)) (*grammar.Grammar, error) {
	g.mu.Lock()
	if at, ok := g.byKey[key]; ok {
		g.order.MoveToFront(at)
		g.mu.Unlock()
		return at.Value.(*compiled).grammar, nil
	}
	g.mu.Unlock()
	built, err := compile() // outside of the lock: schemas may be large
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byKey == nil {
		g.byKey = map[string]*list.Element{}
	}
	if _, ok := g.byKey[key]; !ok {
		g.byKey[key] = g.order.PushFront(&compiled{key, built})
		if g.order.Len() > mostGrammars {
			last := g.order.Remove(g.order.Back()).(*compiled)
			delete(g.byKey, last.key)
		}
	}
	return built, nil
}
