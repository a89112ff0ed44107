package openai

import (
	"context"
	"math"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// tokenize is POST /tokenize, in the dialects of vLLM and of llama-server.
func (a *api) tokenize(c echo.Context) error {
	v, err := a.read(c)
	if err != nil {
		return a.fail(c, err)
	}
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	ids, err := encode(c.Request().Context(), v, core)
	if err != nil {
		return a.fail(c, err)
	}
	pieces, names := v.Get("with_pieces").Bool(false), v.Get("return_token_strs").Bool(false)
	if err := v.Err(); err != nil {
		return a.fail(c, err)
	}
	a.note(c, v.Unknown())
	out := map[string]any{"tokens": ids, "count": len(ids), "max_model_len": core.Options().Context}
	if pieces {
		out["tokens"] = tokenPieces(core.Model().Tokenizer(), ids)
	}
	if names {
		list := make([]string, len(ids))
		for i, id := range ids {
			list[i] = core.Model().Tokenizer().Decode([]int32{id})
		}
		out["token_strs"] = list
	}
	return c.JSON(200, out)
}

// encode gives the ids of what a request wants to have counted.
func encode(ctx context.Context, v body.Value, core *completion.Core) ([]int32, error) {
	t := core.Model().Tokenizer()
	special := func(string, int32) bool { return true }
	bos := func(ids []int32, wanted bool) []int32 {
		if b := t.BOS(); wanted && b >= 0 && (len(ids) == 0 || ids[0] != b) {
			return append([]int32{b}, ids...)
		}
		return ids
	}
	ids := []int32{}
	model := v.Get("model").Text("")
	switch content, text := v.Get("content"), v.Get("prompt"); {
	case v.Get("messages").Is():
		r := completion.Request{}
		chatFields(v, &r)
		if err := v.Err(); err != nil {
			return nil, err
		}
		var err error
		if ids, err = core.Render(ctx, &r); err != nil {
			return nil, err
		}
	case content.Is(): // llama-server's
		add, parse := v.Get("add_special").Bool(false), v.Get("parse_special").Bool(true)
		if !parse {
			special = nil
		}
		ids = bos(append(ids, t.EncodeAllowing(content.Text(""), special)...), add)
	case text.Is():
		ids = bos(append(ids, t.EncodeAllowing(text.Text(""), special)...), v.Get("add_special_tokens").Bool(true))
	default:
		v.Missing("prompt")
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	return ids, core.Named(model)
}

// tokenPieces is llama-server's list: a piece is a string, or its bytes where they are no UTF-8.
func tokenPieces(t completion.Tokenizer, ids []int32) []any {
	type piece struct {
		ID    int32 `json:"id"`
		Piece any   `json:"piece"`
	}
	out := make([]any, len(ids))
	for i, id := range ids {
		b := t.Bytes(id)
		p := piece{ID: id, Piece: string(b)}
		if b == nil {
			p.Piece = t.Name(id)
		} else if !utf8.Valid(b) {
			numbers := make([]int, len(b))
			for k := range b {
				numbers[k] = int(b[k])
			}
			p.Piece = numbers
		}
		out[i] = p
	}
	return out
}

// detokenize is POST /detokenize.
func (a *api) detokenize(c echo.Context) error {
	v, err := a.read(c)
	if err != nil {
		return a.fail(c, err)
	}
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	field := v.Get("tokens")
	if !field.Is() {
		v.Missing("tokens")
	}
	model := v.Get("model").Text("")
	ids, size := []int32{}, core.Model().Tokenizer().VocabSize()
	for _, item := range field.List() {
		if !item.Is() {
			item.Fail("应为 token 编号", "want a token id")
		}
		ids = append(ids, int32(item.Int(0, 0, min(size-1, math.MaxInt32))))
	}
	if err := v.Err(); err != nil {
		return a.fail(c, err)
	}
	if err := core.Named(model); err != nil {
		return a.fail(c, err)
	}
	a.note(c, v.Unknown())
	text := core.Model().Tokenizer().Decode(ids)
	return c.JSON(200, map[string]any{"content": text, "prompt": text})
}

// applyTemplate is POST /apply-template.
func (a *api) applyTemplate(c echo.Context) error {
	v, err := a.read(c)
	if err != nil {
		return a.fail(c, err)
	}
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	r := completion.Request{}
	chatFields(v, &r)
	model := v.Get("model").Text("")
	if err := v.Err(); err != nil {
		return a.fail(c, err)
	}
	if err := core.Named(model); err != nil {
		return a.fail(c, err)
	}
	ids, err := core.Render(c.Request().Context(), &r)
	if err != nil {
		return a.fail(c, err)
	}
	return c.JSON(200, map[string]any{"prompt": core.Model().Tokenizer().Decode(ids)})
}
