package grammar

import (
	"cmp"
	"slices"
)

// Vocabulary is the tokens of a tokenizer as a trie of their bytes. It never changes.
type Vocabulary struct {
	size    int
	bytes   [][]byte // by id; nil: not text
	stops   []int32
	short   []trieNode        // the tokens of at most shortToken bytes
	long    []trieNode        // the others
	longIDs []uint32          // the mask of the tokens in long
	same    map[int32][]int32 // ids with the bytes of one in the tries
	depth   int               // of the deeper trie
}

// trieNode is one byte of tokens. Nodes lie in depth-first order: those below a node follow it, up to end. A walk visits
// hundreds of thousands of them, so they are small.
type trieNode struct {
	end   int32
	id    int32  // that ends here; < 0: none
	depth uint16 // bytes before this one
	b     byte
	same  bool // more ids end here: Vocabulary.same
}

// mostTokenBytes bounds the tokens that can be drawn; longer ones are left out.
const mostTokenBytes = 1 << 12

// NewVocabulary makes the trie for ids 0..size-1. bytes gives what an id stands for, nil or nothing for special tokens,
// which no grammar allows; stopIDs end an answer and are allowed exactly where it may end, whatever bytes they have.
func NewVocabulary(size int, bytes func(id int32) []byte, stopIDs []int32) *Vocabulary {
	v := &Vocabulary{size: size, bytes: make([][]byte, size), same: map[int32][]int32{}}
	for _, id := range stopIDs {
		if id >= 0 && int(id) < size && !slices.Contains(v.stops, id) {
			v.stops = append(v.stops, id)
		}
	}
	var short, long []int32
	for id := range int32(size) {
		b := bytes(id)
		if len(b) == 0 || len(b) > mostTokenBytes || slices.Contains(v.stops, id) {
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
	v.longIDs = make([]uint32, v.words())
	for _, id := range long {
		v.longIDs[id>>5] |= 1 << (id & 31)
	}
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
			nodes = append(nodes, trieNode{b: b[d], depth: uint16(d), id: -1})
		}
		if at := &nodes[path[len(path)-1]]; at.id < 0 {
			at.id = id
		} else {
			at.same = true
			v.same[at.id] = append(v.same[at.id], id)
		}
		last = b
	}
	for _, at := range path {
		nodes[at].end = int32(len(nodes))
	}
	return nodes
}

func (v *Vocabulary) words() int { return (v.size + 31) / 32 }
