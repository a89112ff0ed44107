package tokenizer

import (
	"container/heap"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// plainEncode merges one piece the plain way: a heap of all possible merges.
func plainEncode(t *bpe, piece string) []int32 {
	if r := t.find(piece); r != none && (t.pieces || t.made(r)) {
		return []int32{int32(r)}
	}
	n := len(piece)
	parts, ends := make([]uint32, n), make([]int, n) // by first byte; a part that was merged away is none
	before := make([]int, n)
	for i := range n {
		parts[i], ends[i], before[i] = t.find(piece[i:i+1]), i+1, i-1
	}
	var h mergeHeap
	offer := func(i int) {
		if i >= 0 && ends[i] < n {
			if r := t.find(piece[i:ends[ends[i]]]); r != none && t.made(r) {
				heap.Push(&h, candidate{r, i, ends[ends[i]]})
			}
		}
	}
	for i := range n {
		offer(i)
	}
	for h.Len() > 0 {
		c := heap.Pop(&h).(candidate)
		middle := 0
		if parts[c.at] != none {
			middle = ends[c.at]
		}
		if parts[c.at] == none || middle >= n || parts[middle] == none || ends[middle] != c.end {
			continue // one of its two parts is gone
		}
		parts[c.at], parts[middle], ends[c.at] = c.rank, none, c.end
		if c.end < n {
			before[c.end] = c.at
		}
		offer(c.at)
		offer(before[c.at])
	}
	var out []int32
	for i := 0; i < n; i = ends[i] {
		out = append(out, int32(parts[i]))
	}
	return out
}

type candidate struct {
	rank    uint32
	at, end int
}

type mergeHeap []candidate

func (h mergeHeap) Len() int { return len(h) }
func (h mergeHeap) Less(i, j int) bool {
	return h[i].rank < h[j].rank || h[i].rank == h[j].rank && h[i].at < h[j].at
}
func (h mergeHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *mergeHeap) Push(x any)   { *h = append(*h, x.(candidate)) }
func (h *mergeHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func plain(t *Tokenizer, text string) []int32 {
	var out []int32
	for i := 0; i < len(text); {
		end := t.classes.next(text, i)
		for _, rank := range plainEncode(t.engine, text[i:end]) {
			out = append(out, t.id(rank))
		}
		i = end
	}
	return out
}

// goText returns Go source of the standard library: English in comments, and code.
func goText(t testing.TB) (english, code string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("go env GOROOT: %v", err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	files, err := filepath.Glob(filepath.Join(root, "net", "http", "*.go"))
	more, _ := filepath.Glob(filepath.Join(root, "go", "types", "*.go"))
	if err != nil || len(files) == 0 {
		t.Skip("the standard library's source is not there")
	}
	var words, source strings.Builder
	for _, name := range append(files, more...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
		for line := range strings.Lines(string(text)) {
			if comment, ok := strings.CutPrefix(strings.TrimSpace(line), "// "); ok {
				words.WriteString(comment + " ")
			}
		}
	}
	return words.String(), source.String()
}

const hanSample = "骆马是南美洲的一种动物，生活在安第斯山区。人们饲养它，因为它的毛很柔软，也可以驮运货物。"

func hostile() map[string]string {
	return map[string]string{
		"a": strings.Repeat("a", 1<<20), "space": strings.Repeat(" ", 1<<20), "han": strings.Repeat("好", 1<<20/3),
		"!": strings.Repeat("!", 1<<20), "newline": strings.Repeat("\n", 1<<20), "space-break": strings.Repeat(" \n", 1<<19),
		"ab": strings.Repeat("ab", 1<<19), "invalid": strings.Repeat("\xff", 1<<20),
	}
}

func tokenizers(t *testing.T) map[string]*Tokenizer {
	all := map[string]*Tokenizer{"demo": demo(t)}
	if _, err := os.Stat("../../shared/llama4/tokenizer.model"); err == nil {
		all["llama4"] = llama4(t)
	}
	return all
}

// Time grows with the length only: a megabyte of one character takes seconds where it was quadratic.
func TestHostile(t *testing.T) {
	for name, tok := range tokenizers(t) {
		for what, text := range hostile() {
			begin := time.Now()
			got := tok.Encode(text)
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("%s: %s took %v", name, what, d)
			}
			if want := plain(tok, text); !slices.Equal(got, want) {
				t.Errorf("%s: %s: differs from the plain engine", name, what)
			}
		}
	}
}

func pieces(text string, size int) (out []string) {
	for len(text) > size {
		n := size
		for !utf8.RuneStart(text[n]) {
			n--
		}
		out, text = append(out, text[:n]), text[n:]
	}
	return append(out, text)
}

// gotokenizers' merging, an independent implementation, gives the same ids.
func TestSecondEngine(t *testing.T) {
	english, code := goText(t)
	dirs := map[string]string{"demo": "../demo/checkpoint"}
	if _, err := os.Stat("../../shared/llama4/tokenizer.model"); err == nil {
		dirs["llama4"] = "../../shared/llama4"
	}
	for name, dir := range dirs {
		second := load(t, os.DirFS(dir), Options{Engine: GoTokenizers})
		first := tokenizers(t)[name]
		for _, corpus := range []string{english[:200_000], code[:200_000], strings.Repeat(hanSample, 200), randomText(1, 60_000)} {
			for _, piece := range pieces(corpus, 20_000) {
				if got, want := first.Encode(piece), second.Encode(piece); !slices.Equal(got, want) {
					t.Fatalf("%s: engines differ on %.60q", name, piece)
				}
			}
		}
	}
}

// randomText mixes characters of all classes, and ones where Unicode versions differ.
func randomText(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 4))
	alphabet := []rune("aAbzE's'ſ re tLl''\n\r\t  //!?.1234 éßÀ中文好ー\u0301\u0300ǅʰ\u3000\u00a0½Ⅷ🦙\u200d\u200b\U00013461\U0002EBF1\uFFFD")
	var out strings.Builder
	for out.Len() < n {
		if r.IntN(20) == 0 {
			out.WriteRune(rune(r.IntN(0x30000)))
		} else {
			out.WriteRune(alphabet[r.IntN(len(alphabet))])
		}
	}
	return strings.ToValidUTF8(out.String(), "?")
}

func TestConcurrent(t *testing.T) {
	tok := demo(t)
	text := randomText(2, 5_000)
	want := tok.Encode(text)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 20 {
				if !slices.Equal(tok.Encode(text), want) {
					t.Error("a concurrent encoding differs")
				}
			}
		})
	}
	wait.Wait()
}

func TestDecoder(t *testing.T) {
	tok := demo(t)
	for _, text := range []string{"Hello 世界 🦙🔥!", "a\xffb", "\xe4\xb8", "\xf0\x9f\xff", "\xed\xa0\x80", randomText(3, 3000)} {
		ids := tok.Encode(text)
		var bytes []byte
		var streamed strings.Builder
		d := tok.NewDecoder()
		for _, id := range ids {
			bytes = append(bytes, tok.Bytes(id)...)
			part := d.Next(id)
			if !utf8.ValidString(part) {
				t.Errorf("%q is not UTF-8", part)
			}
			streamed.WriteString(part)
		}
		streamed.WriteString(d.Flush())
		if string(bytes) != text {
			t.Errorf("%q: the tokens' bytes are %q", text, bytes)
		}
		if streamed.String() != tok.Decode(ids) {
			t.Errorf("%q: streamed %q, whole %q", text, streamed.String(), tok.Decode(ids))
		}
	}
	for text, want := range map[string]string{"a\xffb": "a�b", "\xe4\xb8": "�", "\xf0\x9f\xff": "��", "\xed\xa0\x80": "���", "\xe4\xb8a": "�a"} {
		if got := tok.Decode(tok.Encode(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	eot, _ := tok.Special("<|eot|>")
	ids := append(tok.Encode("\xe4\xb8"), eot)
	if got := tok.Decode(ids); got != "�<|eot|>" {
		t.Errorf("got %q", got)
	}
	if got := tok.DecodeText(ids); got != "�" {
		t.Errorf("got %q", got)
	}
}

func FuzzEncode(f *testing.F) {
	tok := demo(f)
	second := load(f, demoDir, Options{Engine: GoTokenizers})
	for _, s := range []string{"", "Hello, world!", "don't 'ſ 123456", "\n \n  a", "<|eot|>", hanSample, "\xff\xfe", randomText(4, 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids := tok.Encode(text)
		if want := plain(tok, text); !slices.Equal(ids, want) {
			t.Fatalf("%q: got %v, plain %v", text, ids, want)
		}
		if want := second.Encode(text); len(text) < 4096 && !slices.Equal(ids, want) {
			t.Fatalf("%q: got %v, second engine %v", text, ids, want)
		}
		if utf8.ValidString(text) && tok.Decode(ids) != text {
			t.Fatalf("%q decodes as %q", text, tok.Decode(ids))
		}
		for _, id := range ids {
			if tok.IsSpecial(id) {
				t.Fatalf("%q: special token %d", text, id)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	english, code := goText(b)
	corpora := hostile()
	corpora["english"], corpora["code"], corpora["chinese"] = english, code, strings.Repeat(hanSample, 3000)
	tok := llama4(b)
	for _, name := range []string{"english", "code", "chinese", "a", "space", "han"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(corpora[name])))
			var ids []int32
			for b.Loop() {
				ids = tok.AppendEncode(ids[:0], corpora[name])
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	shared(b, "llama4", "tokenizer.model")
	for name, fsys := range llama4Files(b) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Load(fsys); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
