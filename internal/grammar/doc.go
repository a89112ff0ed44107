// Package grammar says, token by token, what may come next in a text that has to follow a grammar: a JSON schema, any
// JSON object, a regular expression, or a grammar in llama.cpp's notation (GBNF). An engine draws only from the ids that
// a Matcher allows, so every complete answer follows the grammar.
//
//	g, err := grammar.JSONSchema(schema)        // once for each schema
//	v := grammar.NewVocabulary(size, bytes, stops) // once for each tokenizer
//	m := g.Matcher(v)                           // once for each answer
//	m.Mask(); m.Accept(id); m.Mask(); …
//
// Grammars are also made of parts, which is how a tool call is forced:
//
//	grammar.Sequence(grammar.Literal(`{"name": "f", "parameters": `), schema, grammar.Literal(`}`))
//
// A Matcher has the methods of engine.Constraint, but Clone gives a *Matcher: this package knows nothing of engines. The
// adapter is
//
//	type constraint struct{ *grammar.Matcher }
//
//	func (c constraint) Clone() engine.Constraint { return constraint{c.Matcher.Clone()} }
//
// # Words
//
// An expression is what a source is read into: literals, classes of characters, sequences, choices, repetitions, and
// calls of rules, which may be recursive. It is compiled to an automaton over bytes, in which a character is the bytes of
// its UTF-8 form: a token may begin or end within a character. A state reads a byte, splits, calls a rule, or ends its
// rule. Where a rule is called the state to return to is put on a stack. Stacks share their lower parts.
//
// A situation is a set of (state, stack): all the ways in which the text so far can be read. Situations are numbered as
// they are met and remember where each byte leads, so that most steps are a look into a table. What cannot be finished is
// cut off when the automaton is built: a text that is allowed so far can always be completed, byte by byte.
//
// A mask is made by walking the tokens, as a trie of their bytes, and the situations together. What a token does
// mostly depends on the rule that is being read and not on what comes after it: that part, the local mask, is made with
// an unknown stack and kept, along with the places in the trie where the rule ended within a token. Only these are
// walked for each stack. So the strings of a JSON text cost one walk over all tokens, wherever they stand.
//
// # Limits
//
// Sources come from outside. An automaton has at most 65,536 states; a schema comes to at most 20,000 schemas
// when its references and combinations are expanded; left recursion is refused. More than 1,024 ways to read a text at once (the grammar is very ambiguous) are not
// followed: a token that leads there is refused, and a mask that would take more than about half a second is empty, which
// ends the answer with an error. Tables of a grammar are thrown away when they exceed 16 MiB.
//
// # Why none of the libraries
//
// Go's libraries were looked at. zerfoo's generate/grammar reads a small subset of JSON schema and tries every token of
// the vocabulary, byte by byte, at every step; it knows no regular expressions and no grammars. ollama's grammar package
// and the bindings of llama.cpp, xgrammar and llguidance need C, which only the CUDA kernels may. The scanner of regular
// expressions is the standard library's.
package grammar
