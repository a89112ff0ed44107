package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/model"
	"chulengo/safetensors"
)

// trace collects captured values of one run. The file has one tensor for each hook, under the hook's name: [tokens,
// shape of one token], F32, or I32 for ids of experts. The model reads every token but the last one generated, so that
// is how many rows there are. Hooks of the vision tower have the rows of all tiles, picture after picture. Metadata: the key "chulengo" holds the run as JSON.
type trace struct {
	hooks  []model.Hook
	values [][]byte // of each hook, row after row, little-endian
	run    traceRun

	pictures []*kernels.Pixels // of the request, with the taps of the vision tower; nil: not encoded
}

// traceRun says how the values came about.
type traceRun struct {
	Manifest  int          `json:"hook_manifest"`
	Model     string       `json:"model"`
	PromptIDs []int32      `json:"prompt_ids"`
	IDs       []int32      `json:"ids"`
	Text      string       `json:"text"`
	Seed      uint64       `json:"seed"`
	Sampler   traceSampler `json:"sampler"`
	Finish    string       `json:"finish_reason"`
}

type traceSampler struct {
	Temperature       float32 `json:"temperature"`
	TopK              int     `json:"top_k"`
	TopP              float32 `json:"top_p"`
	MinP              float32 `json:"min_p"`
	RepetitionPenalty float32 `json:"repetition_penalty"`
}

// newTrace sets the taps of a request. It says what the trace may take at most, and refuses what exceeds --trace-limit.
func (a *app) newTrace(l *loaded, r *engine.Request) (*trace, error) {
	hooks, err := model.SelectAllHooks(l.config, a.opts.Capture)
	if err != nil {
		return nil, &message{code: exitUsage, en: "--capture", zh: "--capture 的名称不合适（chulengo hooks 列出所有名称）", cause: err}
	}
	if len(r.Media) == 0 {
		if hooks = slices.DeleteFunc(hooks, model.Hook.IsVision); len(hooks) == 0 {
			return nil, usage("--capture of vision hooks needs a picture (--image FILE)", "--capture 捕获 vision 钩子需要图片（--image 文件）")
		}
	}
	limit, err := parseSize(a.opts.TraceLimit)
	if err != nil {
		return nil, err
	}
	perToken, perTile := 0, 0
	for _, h := range hooks {
		if h.IsVision() {
			perTile += 4 * h.Width() * h.VisionRows(l.config.Vision)
		} else {
			perToken += 4 * h.Width()
		}
	}
	tokens := len(r.Prompt) + r.MaxTokens - 1
	estimate := int64(perToken)*int64(tokens) + int64(perTile)*int64(tilesOf(l.config.Vision, r))
	if estimate > limit {
		return nil, usage("the trace may take %s (%s for each of up to %d tokens), more than --trace-limit %s: capture less, lower --max-tokens or raise the limit",
			"捕获的数据可能达 %s（每个 token %s，最多 %d 个），超过了 --trace-limit %s：请减少捕获内容、降低 --max-tokens 或提高上限", size(estimate), size(int64(perToken)), tokens, a.opts.TraceLimit)
	}
	a.note("capturing at most %[2]s (hooks: %[1]d)", "捕获 %d 个钩子，最多 %s", len(hooks), size(estimate))
	s := r.Sampling
	t := &trace{hooks: hooks, values: make([][]byte, len(hooks)), run: traceRun{Manifest: model.HookManifest, Model: l.name, PromptIDs: r.Prompt,
		Seed: s.Seed, Sampler: traceSampler{s.Temperature, s.TopK, s.TopP, s.MinP, s.RepetitionPenalty}}}
	t.watchPictures(l.config.Vision, r)
	for i, h := range hooks {
		if h.IsVision() {
			continue
		}
		whole := isWhole(h)
		r.Taps = append(r.Taps, engine.Tap{At: h.At, Row: func(_ int, value []float32) {
			for _, v := range value {
				bits := math.Float32bits(v)
				if whole {
					bits = uint32(int32(v))
				}
				t.values[i] = binary.LittleEndian.AppendUint32(t.values[i], bits)
			}
		}})
	}
	return t, nil
}

// isWhole says that a hook's values are integers.
func isWhole(h model.Hook) bool { return h.At.Hook == kernels.HookExpertIndex }

// dtype is the dtype that a hook has in a trace.
func dtype(h model.Hook) safetensors.DType {
	if isWhole(h) {
		return safetensors.I32
	}
	return safetensors.F32
}

// rows is the number of rows that were captured of a hook.
func (t *trace) rows(i int) int { return len(t.values[i]) / 4 / t.hooks[i].Width() }

// tokens is how many tokens were captured; 0 with hooks of the vision tower alone.
func (t *trace) tokens() int {
	for i, h := range t.hooks {
		if !h.IsVision() {
			return t.rows(i)
		}
	}
	return 0
}

// tilesOf counts the tiles of a request's pictures.
func tilesOf(v *model.VisionConfig, r *engine.Request) int {
	patches := 0
	for _, m := range r.Media {
		for _, id := range r.Prompt[m.Pos : m.Pos+m.Len] {
			if id == v.Patch {
				patches++
			}
		}
	}
	if patches == 0 {
		return 0
	}
	return patches / v.Tokens()
}

// watchPictures sets the taps of the vision tower on the pixels of each picture. A picture that occurs twice is encoded, and
// captured, once; the order is the prompt's.
func (t *trace) watchPictures(v *model.VisionConfig, r *engine.Request) {
	for i := range r.Media {
		decode := r.Media[i].Pixels
		r.Media[i].Pixels = func() (*kernels.Pixels, error) {
			p, err := decode()
			if err != nil {
				return nil, err
			}
			for _, h := range t.hooks {
				if !h.IsVision() {
					continue
				}
				rows := make([]int32, p.Tiles*h.VisionRows(v))
				for row := range rows {
					rows[row] = int32(row)
				}
				p.Taps = append(p.Taps, kernels.Tap{At: h.At, Rows: rows, Buf: make([]float32, len(rows)*h.Width())})
			}
			t.pictures[i] = p
			return p, nil
		}
	}
	t.pictures = make([]*kernels.Pixels, len(r.Media))
}

// collectPictures takes over what the vision tower's taps captured.
func (t *trace) collectPictures() {
	for _, p := range t.pictures {
		if p == nil {
			continue // another one with the same content was encoded
		}
		taps := p.Taps
		for i, h := range t.hooks {
			if h.IsVision() {
				for _, v := range taps[0].Buf {
					t.values[i] = binary.LittleEndian.AppendUint32(t.values[i], math.Float32bits(v))
				}
				taps = taps[1:]
			}
		}
	}
}

func (t *trace) write(path string, r *engine.Result) error {
	t.collectPictures()
	t.run.IDs, t.run.Text, t.run.Finish = orEmpty(r.IDs), r.Text, string(r.Finish)
	about, err := json.Marshal(t.run)
	if err != nil {
		return err
	}
	tensors := make([]safetensors.Tensor, len(t.hooks))
	for i, h := range t.hooks {
		tensors[i] = safetensors.Tensor{Name: h.Name, DType: dtype(h), Shape: slices.Concat([]int{t.rows(i)}, h.Shape), Data: t.values[i]}
	}
	if err := safetensors.Write(path, tensors, map[string]string{"chulengo": string(about)}); err != nil {
		return failed(err, "cannot write the trace", "无法写入捕获数据")
	}
	return nil
}

// parseSize reads a number of bytes such as 500MB or 4GiB.
func parseSize(text string) (int64, error) {
	units := []struct {
		suffix string
		factor float64
	}{{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(strings.ToUpper(strings.TrimSpace(text)), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err == nil && n >= 0 && n*u.factor < math.MaxInt64 {
			return int64(n * u.factor), nil
		}
		break
	}
	return 0, usage("want a size such as 500MB or 4GiB, got %q", "应为大小，如 500MB 或 4GiB，而得到 %q", text)
}
