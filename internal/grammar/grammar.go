package grammar

import (
	"fmt"
	"sync"
)

// Grammar is a compiled grammar. It never changes, and serves any number of matchers at a time.
type Grammar struct {
	root      expr
	automaton *automaton

	mu       sync.Mutex
	machines map[*Vocabulary]*machine // the tables in use for each vocabulary
}

func compile(root expr) (*Grammar, error) {
	a, err := buildAutomaton(root)
	if err != nil {
		return nil, err
	}
	if newMachine(a, nil).first < 0 {
		return nil, fmt.Errorf("grammar: too ambiguous: there are more than %d ways to begin", mostWays)
	}
	return &Grammar{root: root, automaton: a, machines: map[*Vocabulary]*machine{}}, nil
}

// Matches says whether a whole text follows the grammar.
func (g *Grammar) Matches(text string) bool {
	matches, _ := g.follow(text)
	return matches
}

// Begins says whether a text is the beginning of one that follows the grammar.
func (g *Grammar) Begins(text string) bool {
	_, begins := g.follow(text)
	return begins
}

func (g *Grammar) follow(text string) (matches, begins bool) {
	m := newMachine(g.automaton, nil)
	at := m.first
	for i := 0; i < len(text) && at > 0; i++ {
		m.work = 0
		at = m.step(at, text[i])
	}
	return at > 0 && m.situations[at].accept, at > 0
}

// machine gives the tables for a vocabulary, in place of old ones that have grown too large.
func (g *Grammar) machine(v *Vocabulary, old *machine) *machine {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.machines[v]
	if m == nil || m == old {
		m = newMachine(g.automaton, v)
		g.machines[v] = m
	}
	return m
}
