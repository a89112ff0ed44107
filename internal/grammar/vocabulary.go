package grammar

import (
	"cmp"
	"slices"
)

// Vocabulary is the tokens of a tokenizer as a trie of their bytes. It never changes.
type Vocabulary struct {
	size  int
	bytes [][]byte // by id; nil: not text
	stops []int32
	short []trieNode // the tokens of at most shortToken bytes
	long  []trieNode // the others
	depth int        // of the deeper trie
}

// trieNode is one byte of tokens. Nodes lie in depth-first order: those below a node follow it, up to end.
type trieNode struct {
	end    int32
	tokens []int32 // that end here
	depth  uint16  // bytes before this one; tokens of more than 65,535 bytes are left out
	b      byte
}

// NewVocabulary makes the trie for ids 0..size-1. bytes gives what an id stands for, nil or nothing for special tokens,
// which no grammar allows; stopIDs end an answer and are allowed exactly where it may end, whatever bytes they have.
func NewVocabulary(size int, bytes func(id int32) []byte, stopIDs []int32) *Vocabulary {
	v := &Vocabulary{size: size, bytes: make([][]byte, size)}
	for _, id := range stopIDs {
		if id >= 0 && int(id) < size && !slices.Contains(v.stops, id) {
			v.stops = append(v.stops, id)
		}
	}
	var short, long []int32
	for id := range int32(size) {
		b := bytes(id)
		if len(b) == 0 || len(b) > 1<<16 || slices.Contains(v.stops, id) {
			continue
		}
		v.bytes[id] = b
		v.depth = max(v.depth, len(b))
		if len(b) <= shortToken {
			short = append(short, id)
		} else {
			long = append(long, id)
		}
	}
	v.short, v.long = v.trie(short), v.trie(long)
	return v
}

func (v *Vocabulary) trie(ids []int32) []trieNode {
	slices.SortFunc(ids, func(a, b int32) int { return cmp.Or(slices.Compare(v.bytes[a], v.bytes[b]), cmp.Compare(a, b)) })
	var nodes []trieNode
	var path []int32 // open nodes, by depth
	var last []byte
	for _, id := range ids {
		b := v.bytes[id]
		same := 0
		for same < min(len(b), len(last)) && b[same] == last[same] {
			same++
		}
		for len(path) > same {
			nodes[path[len(path)-1]].end = int32(len(nodes))
			path = path[:len(path)-1]
		}
		for d := same; d < len(b); d++ {
			path = append(path, int32(len(nodes)))
			nodes = append(nodes, trieNode{b: b[d], depth: uint16(d)})
		}
		at := &nodes[path[len(path)-1]]
		at.tokens = append(at.tokens, id)
		last = b
	}
	for _, at := range path {
		nodes[at].end = int32(len(nodes))
	}
	return nodes
}

func (v *Vocabulary) words() int { return (v.size + 31) / 32 }
