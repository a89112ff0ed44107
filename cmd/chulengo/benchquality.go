package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chulengo/bench"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/tokenizer"
)

func (a *app) benchQualityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quality",
		Short: a.say("Measure what quantising changes", "测量量化带来的变化"),
		Long: a.say(`Compare quantised weights with a plain checkpoint: how far the distributions of the next token are apart, which experts are chosen
otherwise, and how many greedy answers stay the same. Without --quant, --against, --activations fp8 and --kv-dtype fp8, all recipes
are compared; --activations fp8 by itself compares the checkpoint, if it has FP8 weights, or the recipe fp8.
--prompts FILE has prompts to answer (.jsonl: an object with "prompt" a line, names of special tokens included) or is a text to read.`,
			`把量化后的权重与未量化的模型比较：下一个 token 的分布相差多少，哪些专家选择改变，多少贪心回答保持不变。
不指定 --quant、--against、--activations fp8 和 --kv-dtype fp8 时比较所有量化方式；仅指定 --activations fp8 时比较含 FP8 权重的
模型本身，否则比较 fp8 量化。
--prompts FILE 为待回答的提示（.jsonl：每行一个含 "prompt" 的对象，可写特殊 token 的名称），或供阅读的文本。`),
		Args: a.arguments(0, 0, ""),
	}
	a.addFlags(cmd.Flags(), modelOptions, []string{"quant", "against", "activations", "kv-dtype", "prompts", "device", "threads", "max-tokens", "format"})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if a.opts.BenchFormat != "table" && a.opts.BenchFormat != "json" {
			return usage("--format: want table or json, got %q", "--format 的值 %q 不合适：应为 table 或 json", a.opts.BenchFormat)
		}
		if err := a.checkDevice(); err != nil {
			return err
		}
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		report, err := a.benchQuality(ctx)
		if err != nil {
			return err
		}
		if a.opts.BenchFormat == "json" {
			return report.JSON(a.out)
		}
		return report.Table(a.out, a.say)
	}
	return cmd
}

// qualityAnswer is how many tokens of an answer are compared, unless --max-tokens says otherwise; qualityText how many tokens of a text are read
// in one piece.
const qualityAnswer, qualityText = 72, 512

func (a *app) benchQuality(ctx context.Context) (*bench.QualityReport, error) {
	d, err := a.describeModel()
	if err != nil {
		return nil, err
	}
	o := bench.QualityOptions{Answer: a.opts.MaxTokens, Stop: d.generation.EOS}
	if o.Answer == 0 {
		o.Answer = qualityAnswer
	}
	if o.Prompts, err = a.qualityPrompts(d, &o.Answer); err != nil {
		return nil, err
	}
	reference, done, err := a.qualitySubject(ctx, d, "", false)
	if err != nil {
		return nil, err
	}
	defer done()
	o.Reference = reference
	r := &bench.QualityReport{Checkpoint: d.name}
	recipes := model.Recipes
	switch {
	case a.opts.Quant != "":
		recipes = []model.Recipe{a.recipe()}
	case a.opts.Against != "":
		recipes = nil
	case a.opts.KVDType == "fp8" && a.activations() == kernels.BF16:
		recipes = []model.Recipe{""}
	case a.activations() == kernels.F8E4M3:
		recipes = []model.Recipe{model.RecipeFP8}
		if quantised, err := d.coded(kernels.F8E4M3); err != nil {
			return nil, err
		} else if quantised {
			recipes = []model.Recipe{""}
		}
	}
	compare := func(d *described, recipe model.Recipe) error {
		keys := a.kvFormat(true)
		if keys == kernels.F8E4M3 {
			o.Name = strings.TrimPrefix(o.Name+", kv fp8", ", ")
		}
		if a.activations() == kernels.F8E4M3 {
			o.Name = strings.TrimPrefix(o.Name+", activations fp8", ", ")
		}
		a.note("comparing %s", "正在比较 %s", o.Name)
		candidate, done, err := a.qualitySubject(ctx, d, recipe, true)
		if err != nil {
			return err
		}
		defer done()
		candidate.KV = keys
		o.Candidate = candidate
		q, err := bench.CompareQuality(ctx, o)
		r.Results = append(r.Results, q)
		return err
	}
	for _, recipe := range recipes {
		o.Name = string(recipe)
		if err := compare(d, recipe); err != nil {
			return nil, err
		}
	}
	if a.opts.Against != "" {
		a.opts.Model = a.opts.Against
		other, err := a.describeModel()
		if err != nil {
			return nil, err
		}
		if x, y := other.config, d.config; x.Vocab != y.Vocab || x.Layers != y.Layers || x.Experts != y.Experts {
			return nil, unusable(nil, "%s and %s are not the same model: %d layers, %d experts and a vocabulary of %d, and %d, %d and %d", "%s 与 %s 不是同一模型：前者 %d 层、%d 个专家、词表 %d，后者 %d、%d、%d",
				d.where(), other.where(), y.Layers, y.Experts, y.Vocab, x.Layers, x.Experts, x.Vocab)
		}
		o.Name = other.name
		if err := compare(other, ""); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// qualitySubject loads a checkpoint on a device of its own: a candidate as the options say, or what it is compared with. done frees both.
func (a *app) qualitySubject(ctx context.Context, d *described, recipe model.Recipe, candidate bool) (s bench.QualitySubject, done func(), err error) {
	weights, err := safetensors.Open(d.files)
	if err != nil {
		return s, nil, bad(d.source, err)
	}
	how := a.gpuOptions()
	if !candidate {
		how.activations = kernels.BF16
	} else if err = a.checkActivations(weights, d.config, recipe); err != nil {
		weights.Close()
		return s, nil, err
	}
	var dev kernels.Device
	if list, gpu := cudaOrdinals(a.opts.Device); gpu {
		if dev, err = openCUDA(list, how); err != nil {
			weights.Close()
			return s, nil, err
		}
	} else {
		dev = cpu.New(cpu.Options{Threads: a.opts.Threads, Activations: how.activations})
	}
	done = func() {
		dev.Close()
		weights.Close()
	}
	m, err := model.Load(ctx, weights, d.config, dev, model.LoadOptions{Progress: a.loadBar(), Recipe: recipe, Notes: a.noteLoad})
	if err != nil {
		done()
		return s, nil, bad(d.source, err)
	}
	return bench.QualitySubject{Model: m, Device: dev}, done, nil
}

// coded says whether the layers of a checkpoint have weights in a format.
func (d *described) coded(f kernels.Format) (bool, error) {
	weights, err := safetensors.Open(d.files)
	if err != nil {
		return false, bad(d.source, err)
	}
	defer weights.Close()
	return model.LayersCoded(weights, d.config, "", f)
}

// qualityPrompts are those of --prompts, or a few questions. A text is read and not answered: answer becomes 0.
func (a *app) qualityPrompts(d *described, answer *int) (list [][]int32, err error) {
	if a.opts.Prompts == "" {
		if err := d.needTokenizer(); err != nil {
			return nil, err
		}
		for _, question := range qualityQuestions {
			ids, err := d.tokenizer.NativeTemplate().Render(tokenizer.Chat{Messages: []tokenizer.Message{tokenizer.Text("user", question)}})
			if err != nil {
				return nil, err
			}
			list = append(list, ids)
		}
		return list, nil
	}
	if err := d.needTokenizer(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(a.opts.Prompts)
	if err != nil {
		return nil, usage("--prompts: %q cannot be read", "--prompts：%q 无法读取", a.opts.Prompts)
	}
	if !strings.HasSuffix(a.opts.Prompts, ".jsonl") {
		*answer = 0
		ids := d.tokenizer.Encode(string(data))
		for len(ids) > 0 {
			n := min(qualityText, len(ids))
			if bos := d.tokenizer.BOS(); bos >= 0 {
				list = append(list, append([]int32{bos}, ids[:n]...))
			} else {
				list = append(list, ids[:n])
			}
			ids = ids[n:]
		}
	} else if list, err = readPrompts(d.tokenizer, data); err != nil {
		return nil, usage("--prompts: %[1]s: want lines with {\"prompt\": …}: %[2]v", "--prompts：%[1]s 的每行应为 {\"prompt\": …}：%[2]v", a.opts.Prompts, err)
	}
	if len(list) == 0 {
		return nil, usage("--prompts: %s is empty", "--prompts：%s 为空", a.opts.Prompts)
	}
	return list, nil
}

// readPrompts reads JSON lines.
func readPrompts(t *tokenizer.Tokenizer, data []byte) (list [][]int32, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var line struct {
			Prompt string `json:"prompt"`
		}
		if err := decoder.Decode(&line); err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		ids := t.EncodeAllowing(line.Prompt, func(string, int32) bool { return true })
		if len(ids) == 0 {
			return nil, fmt.Errorf("object %d has no prompt", len(list)+1)
		}
		list = append(list, ids)
	}
}

// qualityQuestions are asked where no prompts are given. The demo checkpoint can answer them, too.
var qualityQuestions = []string{
	"What is the capital of France?", "What is the capital of Peru?", "日本的首都是哪里？", "德国的首都是哪里？", "What is the chemical symbol of gold?",
	"What is 17 + 25?", "43 - 5", "3乘5等于多少？", "What is 6 × 7?", "Which is larger, 31 or 13?", "Translate \"water\" into Chinese.", "“苹果”用英语怎么说？",
	"What comes after Tuesday?", "星期三的后一天是星期几？", "Who are you?", "你是谁？", "What can you do?", "Tell me a story about a llama.",
	"What does \"river\" mean?", "Repeat after me: blue lantern", "Hello!", "谢谢！", "Count from three to eight.", "What is the capital of Kenya? Answer briefly.",
}
