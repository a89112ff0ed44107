package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"chulengo/engine"
	"chulengo/internal/hub"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/serve"
)

// Exit codes; the package comment explains them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitModel       = 3
	exitBusy        = 4
	exitInterrupted = 130
	exitTerminated  = 143
)

// message is an error in both languages, with an optional cause that gives the details.
type message struct {
	code   int
	en, zh string
	cause  error
	misuse bool // a look at the usage helps
}

func (m *message) Error() string { return m.text("en") }
func (m *message) Unwrap() error { return m.cause }

// Localized is the message in the language of lang.
func (m *message) Localized(lang string) string { return m.text(languageOf(lang)) }

func (m *message) text(lang string) string {
	text, colon := m.en, ": "
	if lang == "zh" {
		text, colon = m.zh, "："
	}
	if m.cause != nil {
		text += colon + localized(m.cause, lang)
	}
	return text
}

// usage is an error of the command line, the environment or the configuration file.
func usage(en, zh string, args ...any) error {
	return &message{code: exitUsage, en: fmt.Sprintf(en, args...), zh: fmt.Sprintf(zh, args...)}
}

// misuse is a usage error of somebody who does not know the command.
func misuse(en, zh string, args ...any) error {
	return &message{code: exitUsage, en: fmt.Sprintf(en, args...), zh: fmt.Sprintf(zh, args...), misuse: true}
}

func isMisuse(err error) bool {
	var m *message
	return errors.As(err, &m) && m.misuse || isFlagError(err)
}

// unusable says why a checkpoint cannot be used.
func unusable(cause error, en, zh string, args ...any) error {
	return &message{code: exitModel, en: fmt.Sprintf(en, args...), zh: fmt.Sprintf(zh, args...), cause: cause}
}

// failed is any other failure.
func failed(cause error, en, zh string, args ...any) error {
	return &message{code: exitFailed, en: fmt.Sprintf(en, args...), zh: fmt.Sprintf(zh, args...), cause: cause}
}

func (a *app) exitCode(err error) int {
	if s := a.signal.Load(); s != nil && (errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) || errors.Is(err, hub.ErrStopped)) {
		return signalCode(*s)
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	var l *serve.ListenError
	var s *serve.StoreError
	var o *serve.OptionError
	var p *engine.ParamError
	var c *engine.ContextError
	var m *message
	switch {
	case errors.As(err, &l) && errors.Is(err, syscall.EADDRINUSE), errors.As(err, &s) && s.Problem == serve.StoreLocked,
		errors.Is(err, hub.ErrBusy), errors.Is(err, engine.ErrBusy):
		return exitBusy
	case errors.As(err, &m):
		return m.code
	case errors.As(err, &o), errors.As(err, &p), errors.As(err, &c), errors.Is(err, hub.ErrBadRef), errors.Is(err, hub.ErrPattern), isFlagError(err):
		return exitUsage
	}
	return exitFailed
}

func signalCode(s os.Signal) int {
	if s == syscall.SIGTERM {
		return exitTerminated
	}
	return exitInterrupted
}

func isFlagError(err error) bool {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	return errors.As(err, &unknown) || errors.As(err, &missing) || errors.As(err, &invalid) || errors.As(err, &syntax)
}

// describe is an error as its user reads it: one sentence in their language, without the prefixes of packages.
func (a *app) describe(err error) string { return localized(err, a.lang) }

func localized(err error, lang string) string {
	zh := lang == "zh"
	if own, ok := err.(interface{ Localized(lang string) string }); ok {
		return own.Localized(lang)
	}
	if own, ok := err.(interface{ Text(serve.Lang) string }); ok {
		return own.Text(serve.Lang(lang))
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") {
		return localized(several.Unwrap()[0], lang) + map[bool]string{true: "（还有其他错误）", false: " (and more errors)"}[zh]
	}
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
		param   *engine.ParamError
		length  *engine.ContextError
		config  *model.ConfigError
		tensor  *model.TensorError
		format  *safetensors.Error
		picture *engine.PictureError
	)
	switch {
	case errors.As(err, &picture) && zh:
		return fmt.Sprintf("无法读取第 %d 张图片：%s", picture.Index+1, localized(picture.Err, lang))
	case errors.As(err, &picture):
		return fmt.Sprintf("picture %d cannot be read: %s", picture.Index+1, localized(picture.Err, lang))
	case errors.As(err, &length):
		return lengthText(length, zh)
	case errors.As(err, &param) && zh:
		return fmt.Sprintf("%s 的值 %s 不合适：应为 %s", param.Field, param.Got, param.Want)
	case errors.As(err, &param):
		return fmt.Sprintf("%s: want %s, got %s", param.Field, param.Want, param.Got)
	case errors.As(err, &unknown) && zh:
		return "没有 " + dashes(unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames()) + " 这个选项"
	case errors.As(err, &unknown):
		return "there is no option " + dashes(unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames())
	case errors.As(err, &missing) && zh:
		return "选项 " + dashes(missing.GetSpecifiedName(), missing.GetSpecifiedShortnames()) + " 后面缺少值"
	case errors.As(err, &missing):
		return "option " + dashes(missing.GetSpecifiedName(), missing.GetSpecifiedShortnames()) + " needs a value"
	case errors.As(err, &invalid):
		return badValue("--"+invalid.GetFlag().Name, invalid.GetValue(), invalid.GetFlag().Value.Type(), lang)
	case errors.As(err, &config) && zh:
		return fmt.Sprintf("%s 的 %s 不合适：应为 %s，实为 %s", config.File, config.Key, config.Want, config.Got)
	case errors.As(err, &tensor) && zh:
		return fmt.Sprintf("张量 %s 不合适：应为 %s，实为 %s", tensor.Tensor, tensor.Want, tensor.Got)
	case errors.Is(err, safetensors.NoCheckpoint) && zh:
		return "没有 " + safetensors.IndexName + "，也没有 " + safetensors.SingleName
	case errors.As(err, &format) && zh:
		return formatText(format)
	case errors.Is(err, fs.ErrNotExist) && zh, errors.Is(err, fs.ErrPermission) && zh:
		var path *fs.PathError
		if errors.As(err, &path) {
			return path.Path + map[bool]string{true: " 不存在", false: " 没有访问权限"}[errors.Is(err, fs.ErrNotExist)]
		}
	}
	text := err.Error()
	for _, room := range []string{"safetensors: ", "model: ", "tokenizer: ", "engine: ", "serve: ", "bench: ", "hub: ", "picture: "} {
		if rest, ok := strings.CutPrefix(text, room); ok {
			return rest
		}
	}
	return text
}

// formatText says what is wrong with a safetensors file.
func formatText(e *safetensors.Error) string {
	text := e.File
	if e.Tensor != "" {
		text += " 的张量 " + e.Tensor
	}
	return fmt.Sprintf("%s 有误（%v）：应为 %s，实为 %s", text, e.Fault, e.Want, e.Got)
}

func lengthText(e *engine.ContextError, zh bool) string {
	if zh {
		return fmt.Sprintf("提示有 %d 个 token，再生成最多 %d 个就超过了 %d 的上下文长度；请缩短提示或用 --max-tokens 减少生成", e.Prompt, e.MaxTokens, e.Context)
	}
	return fmt.Sprintf("the prompt has %d tokens and, with up to %d more, exceeds the context of %d; shorten it or lower --max-tokens", e.Prompt, e.MaxTokens, e.Context)
}

func dashes(name, short string) string {
	if short != "" {
		return "-" + name
	}
	return "--" + name
}

// badValue says that an option's value has the wrong form.
func badValue(where, value, kind, lang string) string {
	if lang == "zh" {
		return fmt.Sprintf("%s 的值 %q 不合适：应为%s", where, value, kinds[kind].zh)
	}
	return fmt.Sprintf("%s: want %s, got %q", where, kinds[kind].en, value)
}
