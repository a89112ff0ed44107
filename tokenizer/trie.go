package tokenizer

import "fmt"

// trie finds the longest token at the beginning of a text. Its nodes are the slots of one hash table, and a node's
// number is its slot: the edge from a node by a byte is looked up as (node, byte), and the slot where it is found is the
// child. The first two bytes of a text have a direct table.
type trie struct {
	nodes []trieNode
	roots []rootEntry // [65536] by the text's first two bytes
}

type trieNode struct {
	edge uint32 // parent<<8 | byte, plus 1; 0: free slot
	rank uint32 // the token that ends here, or none
}

type rootEntry struct{ node, rank uint32 } // node none: no token is longer than one byte; rank: the longest so far

const trieRoot = 0 // slot 0 is taken

// build enters all tokens of t.
func (r *trie) build(t *bpe) error {
	// Tokens share most of their prefixes: Llama 4's 200,000 tokens have 1.3 MB and some 600,000 nodes.
	size := 1 << 12
	r.alloc(size)
	used := 1
	for u := range uint32(len(t.start) - 1) {
		s := t.token(u)
		for used+len(s) > len(r.nodes)*2/3 {
			if len(r.nodes) >= 1<<23 {
				return fmt.Errorf("the vocabulary is too large: more than %d distinct prefixes", used)
			}
			used = r.grow(t, u)
		}
		node, added := r.insert(s)
		if r.nodes[node].rank != none {
			return fmt.Errorf("token %q appears twice", s)
		}
		used += added
		r.nodes[node].rank = u
	}
	return nil
}

func (r *trie) alloc(size int) {
	r.nodes = make([]trieNode, size)
	for i := range r.nodes {
		r.nodes[i].rank = none
	}
	r.nodes[trieRoot].edge = none
}

// grow makes the table four times as large and enters the first n tokens again; it returns the number of nodes.
func (r *trie) grow(t *bpe, n uint32) int {
	r.alloc(4 * len(r.nodes))
	used := 1
	for u := range n {
		node, added := r.insert(t.token(u))
		r.nodes[node].rank = u
		used += added
	}
	return used
}

// slot returns the slot of an edge, or the free slot where it would be.
func (r *trie) slot(node uint32, b byte) uint32 {
	edge := (node<<8 | uint32(b)) + 1
	mask := uint32(len(r.nodes) - 1)
	i := uint32(hash64(uint64(edge))>>32) & mask
	for r.nodes[i].edge != edge && r.nodes[i].edge != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (r *trie) insert(s string) (node uint32, added int) {
	node = trieRoot
	for i := range len(s) {
		child := r.slot(node, s[i])
		if r.nodes[child].edge == 0 {
			r.nodes[child].edge = (node<<8 | uint32(s[i])) + 1
			added++
		}
		node = child
	}
	return node, added
}

// walk returns the node that s leads to, or none.
func (r *trie) walk(s string) uint32 {
	node := uint32(trieRoot)
	for i := range len(s) {
		node = r.slot(node, s[i])
		if r.nodes[node].edge == 0 {
			return none
		}
	}
	return node
}

// find returns the token s, or none.
func (r *trie) find(s string) uint32 {
	if node := r.walk(s); node != none {
		return r.nodes[node].rank
	}
	return none
}

// properPrefix returns the longest token that s begins with, s itself excepted, or none.
func (r *trie) properPrefix(s string) uint32 {
	node, best := uint32(trieRoot), none
	for i := range len(s) - 1 {
		node = r.slot(node, s[i])
		if rank := r.nodes[node].rank; rank != none {
			best = rank
		}
	}
	return best
}

// remove makes s no token.
func (r *trie) remove(s string) {
	r.nodes[r.walk(s)].rank = none
}

// buildRoots fills the direct table, once all tokens are final.
func (r *trie) buildRoots() {
	r.roots = make([]rootEntry, 1<<16)
	for i := range r.roots {
		first := r.slot(trieRoot, byte(i>>8))
		e := rootEntry{none, r.nodes[first].rank}
		second := r.slot(first, byte(i))
		if r.nodes[second].edge != 0 {
			e.node = second
			if rank := r.nodes[second].rank; rank != none {
				e.rank = rank
			}
		}
		r.roots[i] = e
	}
}

// longest returns the longest token that s (not empty) begins with: at least its first byte.
func (r *trie) longest(s string) uint32 {
	if len(s) == 1 {
		return r.nodes[r.slot(trieRoot, s[0])].rank
	}
	e := r.roots[uint32(s[0])<<8|uint32(s[1])]
	node, best := e.node, e.rank
	if node == none {
		return best
	}
	for i := 2; i < len(s); i++ {
		node = r.slot(node, s[i])
		n := r.nodes[node]
		if n.edge == 0 {
			break
		}
		if n.rank != none {
			best = n.rank
		}
	}
	return best
}
