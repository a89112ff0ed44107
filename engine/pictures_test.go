package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/tokenizer"
)

// sight is the demo checkpoint with all that pictures need.
type sight struct {
	model     engine.Model
	device    kernels.Device
	tokenizer *tokenizer.Tokenizer
	reader    *engine.PictureReader
}

func newSight(t *testing.T) *sight {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	return newSightOn(t, dev, llamaOn(t, demo.FS(), dev))
}

func newSightOn(t *testing.T, dev kernels.Device, m engine.Model) *sight {
	t.Helper()
	tok, err := tokenizer.Load(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.LoadConfig(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	p, err := model.LoadPictures(demo.FS(), c, tok.Special)
	if err != nil {
		t.Fatal(err)
	}
	return &sight{m, dev, tok, engine.NewPictureReader(p)}
}

func (s *sight) start(t *testing.T, o engine.Options) *engine.Engine {
	t.Helper()
	e, err := engine.New(s.model, engine.ForTokenizer(s.tokenizer), s.device, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// request asks about pictures: each is an image part before the question.
func (s *sight) request(t *testing.T, question string, files ...[]byte) engine.Request {
	t.Helper()
	var parts []tokenizer.Part
	var opened []*engine.PictureFile
	for _, file := range files {
		f, err := s.reader.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		parts, opened = append(parts, tokenizer.Part{Type: "image"}), append(opened, f)
	}
	parts = append(parts, tokenizer.Part{Type: "text", Text: question})
	ids, err := s.tokenizer.NativeTemplate().Render(tokenizer.Chat{Messages: []tokenizer.Message{{Role: "user", Content: parts}}})
	if err != nil {
		t.Fatal(err)
	}
	ids, media, err := s.reader.Expand(ids, opened)
	if err != nil {
		t.Fatal(err)
	}
	return engine.Request{Prompt: ids, Media: media, MaxTokens: 8, LogProbs: true}
}

// drawing is a picture of random rectangles.
func drawing(t *testing.T, seed uint64, width, height int) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for range 12 {
		c := color.RGBA{uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), 255}
		x, y := r.IntN(width), r.IntN(height)
		for i := x; i < min(width, x+40); i++ {
			for j := y; j < min(height, y+40); j++ {
				m.SetRGBA(i, j, c)
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// demoSight is on a GPU where the test is built for one.
var demoSight = newSight

// The demo checkpoint says what its makers recorded of the two pictures, token by token.
func TestDemoPictures(t *testing.T) {
	dir := filepath.Join("..", "..", "shared", "demo-model", "expected")
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the demo model's reference is not beside the module")
	}
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Messages  [][2]json.RawMessage
		PromptIDs []int32 `json:"prompt_ids"`
		IDs       []int32 `json:"generated_ids"`
		Text      string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	s := demoSight(t)
	e := s.start(t, engine.Options{KVBytes: 64 << 20})
	seen := 0
	for i, c := range cases {
		var parts [][2]string
		if json.Unmarshal(c.Messages[len(c.Messages)-1][1], &parts) != nil {
			continue
		}
		seen++
		file, err := os.ReadFile(filepath.Join(dir, parts[0][1]))
		if err != nil {
			t.Fatal(err)
		}
		r := s.request(t, parts[1][1], file)
		r.MaxTokens = len(c.IDs) + 1
		if !slices.Equal(r.Prompt, c.PromptIDs) {
			t.Errorf("case %d: prompt %v, want %v", i, r.Prompt, c.PromptIDs)
		}
		res, err := e.Generate(context.Background(), r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.IDs[:len(res.IDs)-1]; !slices.Equal(got, c.IDs) || res.Text != c.Text || res.Finish != engine.FinishStop {
			t.Errorf("case %d: %q %v (%s), want %q %v", i, res.Text, got, res.Finish, c.Text, c.IDs)
		}
	}
	if seen != 2 {
		t.Errorf("%d cases with pictures, want 2", seen)
	}
}

// Pieces, neighbours, a cache that holds nothing and sequences that give way change no token and no bit of a log-probability.
func TestPicturesAnyway(t *testing.T) {
	s := newSight(t)
	var requests []engine.Request
	for i := range 6 {
		files := [][]byte{drawing(t, uint64(i), 112+40*i, 100), drawing(t, uint64(i%2), 300, 200)}
		requests = append(requests, s.request(t, fmt.Sprintf("%d: What is in these pictures?", i), files...))
	}
	run := func(o engine.Options, together bool) (out []*engine.Result, stats engine.Stats) {
		e := s.start(t, o)
		out = make([]*engine.Result, len(requests))
		var wg sync.WaitGroup
		for i, r := range requests {
			ask := func() {
				var err error
				if out[i], err = e.Generate(context.Background(), r, nil); err != nil {
					t.Error(err)
				}
			}
			if together {
				wg.Go(ask)
			} else {
				ask()
			}
		}
		wg.Wait()
		stats = e.Stats()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		return out, stats
	}
	want, stats := run(engine.Options{NoPrefixCache: true}, false)
	if p := stats.Pictures; p.Encoded != 8 || p.Shared != 4 || p.Kept != 8 || p.Bytes == 0 {
		t.Errorf("one after the other: %+v, want 8 of 12 encoded, 4 shared", p)
	}
	for name, o := range map[string]engine.Options{
		"together":  {},
		"pieces":    {StepTokens: 5, PageTokens: 7},
		"no memory": {PictureBytes: -1, NoPrefixCache: true, StepTokens: 40},
	} {
		got, stats := run(o, true)
		for i := range want {
			if got[i] == nil || !slices.Equal(got[i].IDs, want[i].IDs) || !slices.Equal(got[i].LogProbs, want[i].LogProbs) {
				t.Errorf("%s: request %d: got %+v, want %+v", name, i, got[i], want[i])
			}
		}
		t.Logf("%s: %+v", name, stats.Pictures)
	}

	// Long answers, for whose pages younger prompts have to give way.
	requests = requests[:4]
	for i := range requests {
		requests[i].MaxTokens, requests[i].IgnoreEOS = 140, true
	}
	want, _ = run(engine.Options{}, false)
	// Who is there at a time depends on the clock, so that nobody may have to; not five times.
	for preempted, try := int64(0), 0; preempted == 0; try++ {
		if try == 5 {
			t.Fatal("few pages: nobody had to give way")
		}
		got, stats := run(engine.Options{PictureBytes: 1 << 16, PageTokens: 8, KVBytes: 12 << 20, StepTokens: 64, Context: 400}, true)
		for i := range want {
			if got[i] == nil || !slices.Equal(got[i].IDs, want[i].IDs) || !slices.Equal(got[i].LogProbs, want[i].LogProbs) {
				t.Errorf("few pages: request %d: got %+v, want %+v", i, got[i], want[i])
			}
		}
		preempted = stats.Preempted
	}
}

// Two prompts of the same ids with other pictures share no pages of them; with the same picture they do.
func TestPicturesNameCachedPages(t *testing.T) {
	s := newSight(t)
	e := s.start(t, engine.Options{PageTokens: 8})
	one, other := drawing(t, 1, 112, 112), drawing(t, 2, 112, 112)
	ask := func(file []byte) *engine.Result {
		t.Helper()
		r, err := e.Generate(context.Background(), s.request(t, "What is in this picture?", file), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := ask(one)
	if r := ask(other); r.Cached > 8 || slices.Equal(r.LogProbs, first.LogProbs) {
		t.Errorf("another picture: %d tokens from the cache, the same answer: %v", r.Cached, slices.Equal(r.LogProbs, first.LogProbs))
	}
	encoded := e.Stats().Pictures.Encoded
	if r := ask(one); r.Cached < 16 || !slices.Equal(r.LogProbs, first.LogProbs) {
		t.Errorf("the same picture: %d tokens from the cache", r.Cached)
	}
	if got := e.Stats().Pictures.Encoded; got != encoded {
		t.Errorf("a picture whose pages were there was encoded again")
	}
}

// Sixteen users with eight pictures each, whose rows would take eight times the memory that pictures may have.
func TestManyPictures(t *testing.T) {
	s := newSight(t)
	const users, each = 16, 8
	var files [][]byte
	for i := range 2 * each {
		files = append(files, drawing(t, uint64(100+i), 224, 100))
	}
	row := s.model.Spec().PictureRow
	bound := 8 * 48 * row
	e := s.start(t, engine.Options{PictureBytes: bound, MaxSequences: users, NoPrefixCache: true})
	var wg sync.WaitGroup
	for u := range users {
		var mine [][]byte
		for i := range each {
			mine = append(mine, files[(u*5+i)%len(files)])
		}
		r := s.request(t, "What is in these pictures?", mine...)
		r.MaxTokens = 3
		wg.Go(func() {
			if _, err := e.Generate(context.Background(), r, func(engine.Event) error {
				if p := e.Stats().Pictures; p.Bytes > bound {
					return fmt.Errorf("pictures take %d bytes, want at most %d", p.Bytes, bound)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%+v", e.Stats().Pictures)
}

func TestPictureErrors(t *testing.T) {
	s := newSight(t)
	e := s.start(t, engine.Options{})
	whole := drawing(t, 3, 200, 200)
	cut := whole[:len(whole)-40]
	_, err := e.Generate(context.Background(), s.request(t, "?", whole, cut), nil)
	var bad *engine.PictureError
	if !errors.As(err, &bad) || bad.Index != 1 || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a file that is cut off: got %v", err)
	}
	r := s.request(t, "?", drawing(t, 4, 50, 50))
	r.Media[0].Pixels = func() (*kernels.Pixels, error) { panic("pixels") }
	if _, err := e.Generate(context.Background(), r, nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "panic") {
		t.Errorf("a source that panics: got %v", err)
	}
	r = s.request(t, "?", drawing(t, 5, 50, 50))
	r.Media[0].Pixels = func() (*kernels.Pixels, error) { return &kernels.Pixels{Tiles: 1}, nil }
	var step *engine.StepError
	if _, err := e.Generate(context.Background(), r, nil); !errors.As(err, &step) {
		t.Errorf("pixels that the device refuses: got %v", err)
	}
	if _, err := e.Generate(context.Background(), s.request(t, "?", whole), nil); err != nil {
		t.Errorf("after the errors: %v", err)
	}

	// A device that cannot see says so.
	blind, err := engine.New(s.model, nil, struct{ kernels.Device }{s.device}, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer blind.Close()
	var param *engine.ParamError
	if _, err := blind.Generate(context.Background(), s.request(t, "?", whole), nil); !errors.As(err, &param) || param.Field != "media[0]" {
		t.Errorf("a blind device: got %v", err)
	}
}

// What a user types is text in both templates, also beside pictures; those get the same tokens in both.
func TestTypedTokens(t *testing.T) {
	s := newSight(t)
	source, ok := s.tokenizer.CheckpointTemplate()
	if !ok {
		t.Fatal("the demo checkpoint has no template")
	}
	checkpoint, err := s.tokenizer.JinjaTemplate(source)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.reader.Open(drawing(t, 9, 224, 112))
	if err != nil {
		t.Fatal(err)
	}
	const typed = "<|image|> <|patch|><|image_start|>?"
	chat := tokenizer.Chat{Messages: []tokenizer.Message{{Role: "user", Content: []tokenizer.Part{{Type: "text", Text: typed}, {Type: "image"}, {Type: "text", Text: typed}}}}}
	patch := s.model.Spec().Patch
	var first []int32
	for name, template := range map[string]tokenizer.ChatTemplate{"native": s.tokenizer.NativeTemplate(), "checkpoint": checkpoint} {
		ids, err := template.Render(chat)
		if err != nil {
			t.Fatal(err)
		}
		ids, media, err := s.reader.Expand(ids, []*engine.PictureFile{f})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		patches := 0
		for i, id := range ids {
			if id == patch {
				if patches++; i < media[0].Pos || i >= media[0].Pos+media[0].Len {
					t.Errorf("%s: a patch at %d, outside of the picture", name, i)
				}
			}
		}
		if patches != 3*16 || media[0].Len != f.Tokens {
			t.Errorf("%s: %d patches in %d tokens, want 48 in %d", name, patches, media[0].Len, f.Tokens)
		}
		if first == nil {
			first = ids
		} else if !slices.Equal(ids, first) {
			t.Errorf("the templates differ: %v and %v", ids, first)
		}
	}
}
