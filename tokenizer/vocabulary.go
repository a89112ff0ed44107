package tokenizer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// vocabulary is what a tokenizer file lists: tokens with their ids, in any order.
type vocabulary struct {
	tokens tokenList
	ids    []int32
}

func (v *vocabulary) add(token []byte, id int32) {
	v.tokens.add(token)
	v.ids = append(v.ids, id)
}

// mergeList is the list of a file's merges, earliest first: each pair's bytes side by side, and the left part's length.
type mergeList struct {
	pairs tokenList
	left  []uint32
}

// tokenizer builds the encoder. Without merges, tokens merge in the order of their ids. pieces says whether a piece of
// text that is a token becomes that token even where merges do not lead there (tiktoken, and ignore_merges).
func (v *vocabulary) tokenizer(merges *mergeList, pieces bool) (*Tokenizer, error) {
	if err := v.tokens.checkBytes(); err != nil {
		return nil, err
	}
	order := make([]int, v.tokens.len()) // by rank: bytes first, then by id
	for i := range order {
		order[i] = i
	}
	isByte := func(i int) bool { return v.tokens.start[i+1]-v.tokens.start[i] == 1 }
	byID := func(a, b int) int {
		if x, y := isByte(a), isByte(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Compare(v.ids[a], v.ids[b])
	}
	if !slices.IsSortedFunc(order, byID) {
		slices.SortFunc(order, byID)
	}
	if !increasing(v.ids) {
		seen := make(map[int32]bool, len(v.ids))
		for _, id := range v.ids {
			if seen[id] {
				return nil, fmt.Errorf("two tokens have the id %d", id)
			}
			seen[id] = true
		}
	}
	engine, err := newBPE(v.arrange(order), len(order), pieces)
	if err != nil {
		return nil, err
	}
	if merges != nil {
		steps, err := resolve(engine, merges)
		if err != nil {
			return nil, err
		}
		if !inOrder(engine, steps) {
			if engine, err = v.byMerges(engine, steps, order, pieces); err != nil {
				return nil, err
			}
		}
	}
	t := &Tokenizer{engine: engine, classes: classes(), special: map[string]int32{}, added: map[int32]addedToken{}, bos: -1}
	t.setIDs(v, order)
	return t, nil
}

func increasing(ids []int32) bool {
	for i := 1; i < len(ids); i++ {
		if ids[i] <= ids[i-1] {
			return false
		}
	}
	return true
}

// arrange returns the tokens in the given order.
func (v *vocabulary) arrange(order []int) tokenList {
	var out tokenList
	out.bytes = make([]byte, 0, len(v.tokens.bytes))
	out.start = make([]uint32, 0, len(v.tokens.start))
	for _, i := range order {
		out.add(v.tokens.at(i))
	}
	return out
}

// step is one merge of the file, in ranks of an engine.
type step struct{ left, right, result uint32 }

func resolve(t *bpe, merges *mergeList) ([]step, error) {
	steps := make([]step, merges.pairs.len())
	for i := range steps {
		s, n := string(merges.pairs.at(i)), merges.left[i]
		steps[i] = step{t.find(s[:n]), t.find(s[n:]), t.find(s)}
		for _, part := range []struct {
			rank uint32
			text string
		}{{steps[i].left, s[:n]}, {steps[i].right, s[n:]}, {steps[i].result, s}} {
			if part.rank == none {
				return nil, fmt.Errorf("merge number %d (%q %q): %q is not in the vocabulary", i, s[:n], s[n:], part.text)
			}
		}
	}
	return steps, nil
}

// inOrder says whether merging by the list is merging by rank: results come in the order of their ranks, and every token
// that ranks can make has its split in the list. (The encodings then agree rank by rank: before a token's own rank both
// see its bytes as the same two parts.)
func inOrder(t *bpe, steps []step) bool {
	listed := 0
	for i, s := range steps {
		if i > 0 && s.result < steps[i-1].result {
			return false
		}
		if t.split[s.result] == [2]uint32{s.left, s.right} && t.made(s.result) {
			if i > 0 && steps[i-1] == s {
				return false
			}
			listed++
		}
	}
	makeable := 0
	for u := 256; u < len(t.split); u++ {
		if t.made(uint32(u)) {
			makeable++
		}
	}
	return listed == makeable
}

// byMerges builds the encoder for a list that is not in the order of the ids. A token's bytes, merged by the list, end
// as the token in one way only, and the last merge of that way gives its rank; tokens for which this fails cannot be
// made and go to the end. order is changed to the new order.
func (v *vocabulary) byMerges(t *bpe, steps []step, order []int, pieces bool) (*bpe, error) {
	list := make(map[[2]uint32]uint32, len(steps)) // to the index in steps
	for i, s := range steps {
		list[[2]uint32{s.left, s.right}] = uint32(i)
	}
	last := make([]uint32, len(order)) // by rank in t: the merge that makes the token, or none
	for u := range last {
		last[u] = none
		if u >= 256 {
			last[u] = lastMerge(t, list, steps, uint32(u))
		}
	}
	ranks := make([]int, len(order))
	for i := range ranks {
		ranks[i] = i
	}
	slices.SortStableFunc(ranks[256:], func(a, b int) int { return cmp.Compare(last[a], last[b]) })
	merged := 256
	for merged < len(ranks) && last[ranks[merged]] != none {
		merged++
	}
	old := slices.Clone(order)
	for i, rank := range ranks {
		order[i] = old[rank]
	}
	out, err := newBPE(v.arrange(order), merged, pieces)
	if err != nil {
		return nil, err
	}
	for i := 256; i < merged; i++ {
		s := steps[last[ranks[i]]]
		got := out.split[i]
		if !out.made(uint32(i)) || out.token(got[0]) != t.token(s.left) || out.token(got[1]) != t.token(s.right) {
			return nil, errors.New("the order of the merges contradicts itself")
		}
	}
	return out, nil
}

// lastMerge merges the token's bytes by the list and returns the index of the last merge, or none if other tokens remain.
func lastMerge(t *bpe, list map[[2]uint32]uint32, steps []step, token uint32) uint32 {
	var parts []uint32
	for _, b := range []byte(t.token(token)) {
		parts = append(parts, t.trie.find(string([]byte{b})))
	}
	last := none
	for len(parts) > 1 {
		best, at := none, 0
		for i := range len(parts) - 1 {
			if n, ok := list[[2]uint32{parts[i], parts[i+1]}]; ok && n < best {
				best, at = n, i
			}
		}
		if best == none {
			return none
		}
		last = best
		parts[at] = steps[best].result
		parts = slices.Delete(parts, at+1, at+2)
	}
	if parts[0] != token {
		return none
	}
	return last
}
