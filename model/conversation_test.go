package model_test

import (
	"slices"
	"testing"

	"chulengo/demo"
)

// Token ids of the demo checkpoint: a user's turn and the beginning of the assistant's.
var (
	begin     = []int32{6125}
	userOpens = []int32{6130, 280, 256, 6131, 270}
	userEnds  = []int32{6133, 6130, 396, 279, 283, 6131, 270}
	endOfTurn = int32(6133)
	questions = [][]int32{
		{324, 292, 301, 375, 318, 3995, 30},      // What is the capital of France?
		{1145, 350, 220, 967, 13},                // Count to 15.
		{716, 334, 276, 727, 744, 276, 1458, 13}, // Tell me a story about a fox.
		{1500, 2299, 342},                        // 中国的首都是哪里？
		{562, 1319, 13},                          // Define llama.
		{324, 292, 220, 22, 910, 220, 23, 30},    // What is 7 * 8?
	}
	paris = []int32{371, 375, 318, 3995, 292, 5413, 289, 13} // The capital of France is Paris.
)

// A conversation of 2,000 tokens, held turn by turn and token by token, crosses some fifteen chunk borders; a full
// recompute of the same tokens in one step gives the same bits at every position.
func TestLongConversation(t *testing.T) {
	const length = 2000
	m := load(t, demo.FS(), 0)
	s, q := newStepper(t, m), &sequence{}
	v := m.Config.Vocab
	var tokens []int32
	var logits []float32
	read := func(ids ...int32) (best int32) {
		out := s.step([]piece{{q, ids}})
		tokens, logits = append(tokens, ids...), append(logits, out...)
		return int32(argmaxRows(out[len(out)-v:], v)[0])
	}
	read(begin...)
	for turn := 0; len(tokens) < length; turn++ {
		next := read(slices.Concat(userOpens, questions[turn%len(questions)], userEnds)...)
		var answer []int32
		for ; next != endOfTurn && len(tokens) < length; next = read(next) {
			answer = append(answer, next)
		}
		if turn == 0 && !slices.Equal(answer, paris) {
			t.Errorf("first answer: got %v, want %v", answer, paris)
		}
		if next == endOfTurn {
			read(next)
		}
	}
	if borders := len(tokens) / m.Config.AttnChunk; borders < 15 {
		t.Errorf("%d chunk borders crossed, want at least 15", borders)
	}
	whole := newStepper(t, m).step([]piece{{&sequence{}, tokens}})
	if i := firstDifference(whole, logits); i >= 0 {
		t.Errorf("token %d of %d differs from a full recompute", i/v, len(tokens))
	}
}
