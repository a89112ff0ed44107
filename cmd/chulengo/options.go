package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options are the values in force, of all commands together.
type options struct {
	Config, Lang   string
	Verbose, Quiet bool
	Model, Device  string
	LoadFormat     string
	Quant          string
	Threads        int
	Exchange       string
	Processes      int
	Process        int
	Rendezvous     string
	Context        int
	KVMemory       int
	KVDType        string
	Activations    string
	DataDir        string
	Database       string
	Template       string
	System         string
	Images         []string
	FetchImages    bool
	Greedy         bool
	Seed           number[uint64]
	Temperature    number[float64]
	TopP, MinP     number[float64]
	TopK           number[int]
	Repetition     number[float64]
	MaxTokens      int
	JSON           bool
	Addr, Page     string
	Drain          time.Duration
	BasePath       string
	APIKeys        []string
	APIKeyFile     string
	AllowedHosts   []string
	Origins        []string
	Proxies        []string
	RateLimit      number[float64]
	RateBurst      int
	AnswerTimeout  time.Duration
	BodyLimit      int
	MaxBatch       int
	MaxQueue       int
	LogPrompts     bool
	Interactive    bool
	PromptIDs      string
	IgnoreEOS      bool
	NoBOS          bool
	Special        bool
	Trace          string
	Capture        []string
	TraceLimit     string
	IDs            string
	Revision, Dir  string
	Include        []string
	Exclude        []string
	Files          int
	Rehash         bool
	BenchFormat    string
	Shape          string
	Layers         int
	BenchBatch     string
	BenchDepth     string
	BenchPrompt    string
	BenchSteps     int
	Against        string
	Prompts        string
}

// option is one row of the table below: an option's name in its flag's spelling, where its value goes, and what it is
// for. The default is the value there before.
type option struct {
	name   string
	value  any // *string, *bool, *int, *[]string, *time.Duration or *number
	en, zh string
}

// generateTokens bounds raw continuations: unlike answers they need not end by themselves.
const generateTokens = 256

// defaults sets the values that hold where nothing else is said.
func (o *options) defaults() {
	o.Device, o.LoadFormat, o.KVDType, o.Activations, o.Template, o.Addr, o.Drain = "auto", "auto", "auto", "auto", "native", "127.0.0.1:5000", time.Minute
	o.Exchange, o.Processes = "auto", 1
	o.MaxBatch, o.MaxQueue = 64, 64
	o.TraceLimit, o.Files, o.BenchFormat = "4GiB", 4, "table"
	o.BenchBatch, o.BenchDepth, o.BenchPrompt, o.BenchSteps = "1,8,32", "128,4096,32768", "2048,8192", 256
}

// table lists every option of every command.
func (o *options) table() []option {
	return []option{
		{"config", &o.Config, "`FILE` with options (YAML, TOML or JSON)", "选项文件 `FILE`（YAML、TOML 或 JSON）"},
		{"lang", &o.Lang, "language of messages: `zh|en` (default: the terminal's)", "界面语言：`zh|en`（默认跟随终端）"},
		{"verbose", &o.Verbose, "timings and details on standard error", "把耗时和细节写到标准错误"},
		{"quiet", &o.Quiet, "no progress and notes", "不显示进度和提示"},
		{"model", &o.Model, "checkpoint `DIR`, hub address, or ORG/NAME in a local cache (default: the built-in demo)", "模型目录 `DIR`、模型站地址，或本机缓存中的 组织/名称（默认：内置演示模型）"},
		{"device", &o.Device, "`auto|cpu|cuda[:N[,cuda:M]]` (auto: as many GPUs as hold the model together, else the CPU)", "`auto|cpu|cuda[:N[,cuda:M]]`（auto：用足以容纳模型的 GPU，没有则用 CPU）"},
		{"load-format", &o.LoadFormat, "`auto|dummy`: dummy fills the shapes of config.json with random weights", "`auto|dummy`：dummy 按 config.json 的形状填入随机权重"},
		{"quant", &o.Quant, "`int4|int4-mixed|fp8`: quantise a plain checkpoint while it is loaded (default: as it is stored; quantize: int4-mixed)", "`int4|int4-mixed|fp8`：加载时把未量化的模型量化（默认按模型原样；quantize 默认 int4-mixed）"},
		{"threads", &o.Threads, "`N` threads of the CPU (0: one for each core)", "CPU 线程数 `N`（0：每核一个）"},
		{"exchange", &o.Exchange, "how several GPUs bring their sums together, `auto|peers|nccl|host` (auto: the first of these that works)", "多个 GPU 汇总结果的方式 `auto|peers|nccl|host`（auto：其中第一种可用的）"},
		{"processes", &o.Processes, "`N` processes that share the model, on one host or several, each with as many GPUs (see chulengo help worker)", "共同运行模型的进程数 `N`，可在多台主机上，各用同样多的 GPU（见 chulengo help worker）"},
		{"process", &o.Process, "`N`: which of --processes this is; 0 leads, the others are workers", "本进程在 --processes 中的编号 `N`；0 为主进程，其余为 worker"},
		{"rendezvous", &o.Rendezvous, "`HOST:PORT` at which process 0 waits for the others; let nobody else reach it", "进程 0 等待其他进程的地址 `HOST:PORT`；不可让他人访问"},
		{"kv-memory", &o.KVMemory, "`MIB` of keys and values at most; they bound how much context fits (0: 4096, on a GPU what is free)", "键值缓存的内存上限 `MIB`，决定能容纳多长的上下文（0：4096；GPU 上为剩余显存）"},
		{"kv-dtype", &o.KVDType, "keys and values as `auto|bf16|fp8` (auto: float32 on the CPU, bf16 on a GPU)", "键值缓存的类型 `auto|bf16|fp8`（auto：CPU 上为 float32，GPU 上为 bf16）"},
		{"activations", &o.Activations, "what prompts are multiplied with, `auto|fp8`: fp8 rounds each row before FP8 weights, which H100 and H200 multiply faster; answers change a little (auto: bf16 on a GPU, float32 on the CPU)",
			"读入提示时的激活值 `auto|fp8`：fp8 在与 FP8 权重相乘前把每行舍入为 FP8，H100 与 H200 上更快，回答略有变化（auto：GPU 上为 bf16，CPU 上为 float32）"},
		{"context", &o.Context, "`N` tokens that prompt and answer may have together (0: the model's)", "提示与回答合计的 token 上限 `N`（0：按模型）"},
		{"data-dir", &o.DataDir, "`DIR` of chats, keys and histories", "保存对话、密钥和历史的目录 `DIR`"},
		{"database", &o.Database, "postgres://USER@HOST/DATABASE `URL` of chats that several servers share (default: a file in --data-dir)", "多个服务共享对话时的 postgres://用户@主机/库 地址 `URL`（默认：--data-dir 中的文件）"},
		{"chat-template", &o.Template, "chat format: `native|checkpoint|FILE`", "对话模板：`native|checkpoint|FILE`"},
		{"system", &o.System, "system `TEXT` before every conversation", "每次对话之前的系统文字 `TEXT`"},
		{"image", &o.Images, "picture `FILE` before the prompt, repeatable (PNG, JPEG, GIF, WebP, BMP)", "提示之前的图片文件 `FILE`，可重复（PNG、JPEG、GIF、WebP、BMP）"},
		{"greedy", &o.Greedy, "always the most probable token", "总是取概率最大的 token"},
		{"seed", &o.Seed, "`N`: the same seed gives the same answer (default: another each time)", "随机种子 `N`：同一种子得到同一回答（默认每次不同）"},
		{"temperature", &o.Temperature, "`X`: 0 is greedy, larger is freer (default: the checkpoint's)", "温度 `X`：0 为贪心，越大越随意（默认按模型）"},
		{"top-p", &o.TopP, "draw from the most probable tokens that reach `P` together (default: the checkpoint's)", "只从累计概率达到 `P` 的 token 中选（默认按模型）"},
		{"top-k", &o.TopK, "draw from the `K` most probable tokens, 0: all (default: the checkpoint's)", "只从概率最大的 `K` 个 token 中选，0 为全部（默认按模型）"},
		{"min-p", &o.MinP, "drop tokens below `P` times the best (default 0)", "舍弃概率低于最大值 `P` 倍的 token（默认 0）"},
		{"repetition-penalty", &o.Repetition, "above 1, `X` makes repetitions less probable (default 1)", "`X` 大于 1 时减少重复（默认 1）"},
		{"max-tokens", &o.MaxTokens, "`N` tokens to generate at most (0: " + fmt.Sprint(generateTokens) + " for generate, else until the context is full)", "最多生成 `N` 个 token（0：generate 为 " + fmt.Sprint(generateTokens) + "，其他直到上下文用完）"},
		{"json", &o.JSON, "print JSON", "输出 JSON"},
		{"addr", &o.Addr, "`HOST:PORT` to listen on", "监听地址 `HOST:PORT`"},
		{"page", &o.Page, "`FILE`: your own index.html in place of the page", "用自己的 index.html（`FILE`）代替页面"},
		{"drain-timeout", &o.Drain, "`TIME` that running answers have when the server ends", "服务结束时留给未完成回答的时间 `TIME`"},
		{"base-path", &o.BasePath, "`PATH` under which everything lies, such as /chat, for a proxy in front", "所有地址之前的路径 `PATH`，如 /chat，用于反向代理"},
		{"api-key", &o.APIKeys, "`KEY` that clients must send, repeatable; other users see command lines: prefer --api-key-file", "客户端须发送的密钥 `KEY`，可重复；命令行对其他用户可见，宜用 --api-key-file"},
		{"api-key-file", &o.APIKeyFile, "`FILE` of keys, one a line; empty lines and lines with # do not count", "密钥文件 `FILE`，每行一个；空行和 # 开头的行不算"},
		{"allowed-host", &o.AllowedHosts, "`NAME` by which clients may find the server besides IP addresses and localhost, repeatable; .example.org: names below it; *: any", "除 IP 地址和 localhost 外可用的主机名 `NAME`，可重复；.example.org 指其下各名，* 指任意"},
		{"cors-origin", &o.Origins, "`ORIGIN` of another site whose pages may use the API, repeatable; *: any", "允许使用接口的其他网站来源 `ORIGIN`，可重复；* 指任意"},
		{"trusted-proxy", &o.Proxies, "`CIDR` or address whose X-Forwarded-* are believed, repeatable", "可信代理的地址或网段 `CIDR`，采信其 X-Forwarded-*，可重复"},
		{"rate-limit", &o.RateLimit, "`N` requests a second of each key, or of each address without keys (default: no limit)", "每个密钥（无密钥时每个地址）每秒请求数上限 `N`（默认不限）"},
		{"rate-burst", &o.RateBurst, "`N` requests at once before --rate-limit counts (0: --rate-limit rounded up)", "受 --rate-limit 限制前可一次发出的请求数 `N`（0：--rate-limit 取整）"},
		{"answer-timeout", &o.AnswerTimeout, "longest `TIME` that an answer to a program may take (0: no limit)", "回答程序请求的最长时间 `TIME`（0：不限）"},
		{"body-limit", &o.BodyLimit, "`KIB` of a request from the page; programs may send 16 times as much (0: 1024)", "网页请求的大小上限 `KIB`，程序可发送 16 倍（0：1024）"},
		{"fetch-images", &o.FetchImages, "get pictures that programs name by http(s) addresses; never from private networks", "取得程序以 http(s) 网址给出的图片；不会访问内网地址"},
		{"max-batch", &o.MaxBatch, "`N` answers that are generated at a time", "同时生成的回答数 `N`"},
		{"max-queue", &o.MaxQueue, "`N` requests that may wait when so many are; others get 503 and may try again", "此外可排队的请求数 `N`；超出的请求得到 503，可稍后重试"},
		{"log-prompts", &o.LogPrompts, "write the texts that people send to the log", "把用户发送的内容写入日志"},
		{"interactive", &o.Interactive, "a conversation even if standard input is no terminal: one message a line", "标准输入不是终端时也逐行对话"},
		{"prompt-ids", &o.PromptIDs, "token `IDS` in place of a text: 1,2,3", "用 token 编号 `IDS` 代替文字：1,2,3"},
		{"ignore-eos", &o.IgnoreEOS, "go on after the checkpoint's stop tokens", "遇到模型的结束 token 也继续"},
		{"no-bos", &o.NoBOS, "no begin-of-text before the prompt", "提示之前不加开始 token"},
		{"special", &o.Special, "read the names of special tokens, such as <|eot|>, as those tokens", "把 <|eot|> 这样的名称当作特殊 token"},
		{"trace", &o.Trace, "write captured values to `FILE.safetensors`", "把捕获的数值写入 `FILE.safetensors`"},
		{"capture", &o.Capture, "`GLOB` of hook names to capture, repeatable (see chulengo hooks)", "要捕获的钩子名称通配式 `GLOB`，可重复（见 chulengo hooks）"},
		{"trace-limit", &o.TraceLimit, "`SIZE` that a trace may have at most", "捕获数据的大小上限 `SIZE`"},
		{"ids", &o.IDs, "token `IDS` to turn into text: 1,2,3", "要还原为文字的 token 编号 `IDS`：1,2,3"},
		{"revision", &o.Revision, "branch, tag or `COMMIT`", "分支、标签或提交 `COMMIT`"},
		{"dir", &o.Dir, "`DIR` to download to (default: the cache)", "下载到目录 `DIR`（默认：缓存）"},
		{"include", &o.Include, "only files that match `GLOB`, repeatable", "只下载匹配通配式 `GLOB` 的文件，可重复"},
		{"exclude", &o.Exclude, "no files that match `GLOB`, repeatable", "不下载匹配通配式 `GLOB` 的文件，可重复"},
		{"files", &o.Files, "`N` files at a time", "同时下载 `N` 个文件"},
		{"rehash", &o.Rehash, "read files again that were verified before", "重新校验已经校验过的文件"},
		{"format", &o.BenchFormat, "`table|json|go`", "`table|json|go`"},
		{"shape", &o.Shape, "`scout|maverick|vision`: random weights in the shape of a published model, or of its vision tower", "`scout|maverick|vision`：按已发布模型或其视觉塔的形状填入随机权重"},
		{"layers", &o.Layers, "`N` layers of the shape (0: all)", "使用该形状的 `N` 层（0：全部）"},
		{"batch", &o.BenchBatch, "`LIST` of sequences that decode together", "同时解码的序列数列表 `LIST`"},
		{"depth", &o.BenchDepth, "`LIST` of contexts after which decoding is timed", "测量解码时的上下文长度列表 `LIST`"},
		{"prompt-tokens", &o.BenchPrompt, "`LIST` of prompt lengths", "提示长度列表 `LIST`"},
		{"against", &o.Against, "a quantised checkpoint `DIR` of the same model to compare", "同一模型的量化版本所在目录 `DIR`，用于比较"},
		{"prompts", &o.Prompts, "`FILE` of prompts (.jsonl) or of a text (default: a few questions)", "提示文件（.jsonl）或文本文件 `FILE`（默认：若干问题）"},
		{"steps", &o.BenchSteps, "`N` decoded tokens of one repetition", "每次重复解码的 token 数 `N`"},
	}
}

// Groups of options that several commands have.
var (
	modelOptions    = []string{"model"}
	loadOptions     = []string{"model", "load-format", "quant", "activations", "device", "processes", "process", "rendezvous"}
	deviceOptions   = append(slices.Clone(loadOptions), "exchange", "threads", "context", "kv-memory", "kv-dtype")
	samplingOptions = []string{"greedy", "seed", "temperature", "top-p", "top-k", "min-p", "repetition-penalty"}
	accessOptions   = []string{"api-key", "api-key-file", "allowed-host", "cors-origin", "trusted-proxy", "rate-limit", "rate-burst"}
	chatOptions     = []string{"system", "chat-template"}
)

// key is an option's name in configuration files.
func key(name string) string { return strings.ReplaceAll(name, "-", "_") }

// variable is an option's name in the environment.
func variable(name string) string { return "CHULENGO_" + strings.ToUpper(key(name)) }

// addFlags gives flags the options of the names, in their order.
func (a *app) addFlags(flags *pflag.FlagSet, names ...[]string) {
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "devices" { // people with several write that
			name = "device"
		}
		return pflag.NormalizedName(name)
	})
	rows := map[string]option{}
	for _, row := range a.opts.table() {
		rows[row.name] = row
	}
	for _, group := range names {
		for _, name := range group {
			row := rows[name]
			a.addFlag(flags, row, a.say(row.en, row.zh))
		}
	}
}

func (a *app) addFlag(flags *pflag.FlagSet, row option, help string) {
	switch v := row.value.(type) {
	case *string:
		flags.StringVar(v, row.name, *v, help)
	case *bool:
		flags.BoolVar(v, row.name, *v, help)
	case *int:
		flags.IntVar(v, row.name, *v, help)
	case *[]string:
		flags.StringArrayVar(v, row.name, *v, help)
	case *time.Duration:
		flags.DurationVar(v, row.name, *v, help)
	case pflag.Value:
		flags.Var(v, row.name, help)
	default:
		panic(fmt.Sprintf("option %s has a value of type %T", row.name, v))
	}
}

// kinds names the forms of values for people, by the type words of pflag.
var kinds = map[string]struct{ en, zh string }{
	"string":      {"a text", "文字"},
	"bool":        {"true or false", " true 或 false"},
	"int":         {"an integer", "整数"},
	"stringArray": {"a list of texts", "文字列表"},
	"duration":    {"a time such as 30s or 2m", "时间，如 30s 或 2m"},
	"uint64":      {"an integer of at least 0", "不小于 0 的整数"},
	"float64":     {"a number", "数"},
}

// number is an option that may be unset: what it is then depends on the checkpoint.
type number[T uint64 | int | float64] struct {
	value T
	set   bool
}

// or is the number, or what holds without it.
func (n number[T]) or(unset T) T {
	if n.set {
		return n.value
	}
	return unset
}

// Set implements pflag.Value.
func (n *number[T]) Set(s string) error {
	var err error
	switch v := any(&n.value).(type) {
	case *uint64:
		*v, err = strconv.ParseUint(s, 10, 64)
	case *int:
		*v, err = strconv.Atoi(s)
	case *float64:
		*v, err = strconv.ParseFloat(s, 64)
	}
	n.set = err == nil
	return err
}

// String implements pflag.Value; "" is unset.
func (n *number[T]) String() string {
	if n == nil || !n.set {
		return ""
	}
	return fmt.Sprint(n.value)
}

// Type implements pflag.Value.
func (n *number[T]) Type() string { return fmt.Sprintf("%T", n.value) }
