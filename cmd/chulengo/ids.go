package main

import (
	"strconv"
	"strings"
)

// parseIDs reads token ids separated by commas or spaces. where names them in errors; vocab bounds them.
func parseIDs(where, text string, vocab int) ([]int32, error) {
	var ids []int32
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,\t\r\n[]", r) }) {
		id, err := strconv.ParseInt(word, 10, 32)
		if err != nil || id < 0 || int(id) >= vocab {
			return nil, usage("%s: want token ids from 0 to %d, got %q", "%s 中的 %[3]q 不合适：token 编号应在 0 与 %[2]d 之间", where, vocab-1, word)
		}
		ids = append(ids, int32(id))
	}
	if len(ids) == 0 {
		return nil, usage("%s: want token ids such as 1,2,3, got %q", "%s 应为 token 编号，如 1,2,3，而得到 %q", where, text)
	}
	return ids, nil
}

// joinIDs is the inverse of parseIDs.
func joinIDs(ids []int32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.Itoa(int(id))
	}
	return strings.Join(words, ",")
}
