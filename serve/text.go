package serve

import (
	"fmt"
	"net/http"
	"strings"
)

// A message is one sentence for users in both of the page's languages.
type message struct{ zh, en string }

// in returns the sentence in lang.
func (m message) in(lang Lang) string {
	if lang == English {
		return m.en
	}
	return m.zh
}

// Lang is a language in which the server speaks to people.
type Lang string

const (
	Chinese Lang = "zh"
	English Lang = "en"
)

// ParseLang maps a locale or language tag (en_US.UTF-8, en-GB, zh_CN) to a language: English for en…, else Chinese.
func ParseLang(tag string) Lang {
	if len(tag) >= 2 && strings.EqualFold(tag[:2], "en") {
		return English
	}
	return Chinese
}

// requestLang is the language of error texts for a request: ?lang=, else the first Accept-Language, else Chinese, in
// which the tutorial's clients know them. A "lang" in the body, read later, beats both.
func requestLang(r *http.Request) Lang {
	if tag := r.URL.Query().Get("lang"); tag != "" {
		return ParseLang(tag)
	}
	return ParseLang(strings.TrimSpace(r.Header.Get("Accept-Language")))
}

// httpError is a failure that a client may read: a status, a sentence, and machine-readable fields beside it. Whatever
// else goes wrong reaches the client only as errInternal, and its cause goes to the log.
type httpError struct {
	status int
	text   message
	fields map[string]any // joins the JSON object
	header map[string]string
	cause  error // for the log
}

func (e *httpError) Error() string { return e.text.en }
func (e *httpError) Unwrap() error { return e.cause }

// body is the JSON object of the error: {"error": text} and the fields.
func (e *httpError) body(lang Lang) map[string]any {
	b := map[string]any{"error": e.text.in(lang)}
	for k, v := range e.fields {
		b[k] = v
	}
	return b
}

func badRequest(zh, en string, args ...any) *httpError {
	return &httpError{status: http.StatusBadRequest, text: message{fmt.Sprintf(zh, args...), fmt.Sprintf(en, args...)}}
}

var (
	errLoading = &httpError{
		status: http.StatusServiceUnavailable,
		text:   message{"模型正在加载中,请稍后再试", "the model is still loading, please try again in a moment"},
		header: map[string]string{"Retry-After": "5"},
	}
	errDraining = &httpError{
		status: http.StatusServiceUnavailable,
		text:   message{"服务器正在关闭,不再接受新的问题", "the server is shutting down and takes no new questions"},
		header: map[string]string{"Connection": "close"},
	}
	errOverloaded = &httpError{
		status: http.StatusServiceUnavailable,
		text:   message{"服务器正忙,请稍后再试", "the server is busy, please try again in a moment"},
		header: map[string]string{"Retry-After": "5"},
	}
	errModelFailed = &httpError{
		status: http.StatusInternalServerError,
		text:   message{"模型加载失败", "the model could not be loaded"},
	}
	errInternal = &httpError{
		status: http.StatusInternalServerError,
		text:   message{"服务器内部错误", "internal server error"},
	}
	errEmptyInput = badRequest("请输入问题", "please enter a question")
	errNotJSON    = badRequest("请求的 Content-Type 必须是 application/json", "the Content-Type of the request must be application/json")
	errBadJSON    = badRequest("请求体不是有效的 JSON 对象", "the request body is not a valid JSON object")
	errTooLarge   = &httpError{
		status: http.StatusRequestEntityTooLarge,
		text:   message{"请求体太大", "the request body is too large"},
	}
	errBusy = &httpError{
		status: http.StatusConflict,
		text:   message{"这个会话正在生成回答,请稍候", "this conversation is already answering, please wait"},
	}
	errNoConversation = &httpError{
		status: http.StatusNotFound,
		text:   message{"会话不存在", "no such conversation"},
	}
	errNoMessage = &httpError{
		status: http.StatusNotFound,
		text:   message{"会话里没有这条消息", "no such message in the conversation"},
	}
	errNoPicture = &httpError{
		status: http.StatusNotFound,
		text:   message{"会话里没有这张图片", "no such picture in the conversation"},
	}
	errNoSession = &httpError{
		status: http.StatusUnauthorized,
		text:   message{"没有浏览器会话:请先打开页面", "no browser session: open the page first"},
	}
	errUnfinished = &httpError{
		status: http.StatusInternalServerError,
		text:   message{"另一台服务器没有完成这个回答", "the answer that another server gave did not come to its end"},
	}
	errNotFound = &httpError{
		status: http.StatusNotFound,
		text:   message{"没有这个地址", "there is nothing at this address"},
	}
	errMethod = &httpError{
		status: http.StatusMethodNotAllowed,
		text:   message{"这个地址不支持该请求方法", "this address does not take this method"},
	}

	textCleared   = message{"聊天历史已清除", "chat history cleared"}
	textInvalidID = message{"无效的会话ID", "invalid conversation id"}
)

// errTooLong says by how much a message exceeds the context.
func errTooLong(prompt, context int) *httpError {
	e := badRequest("消息太长:提示词有 %d 个 token,而上下文只能容纳 %d 个,请缩短消息",
		"the message is too long: the prompt has %d tokens, the context holds %d; please shorten it", prompt, context)
	e.fields = map[string]any{"n_prompt_tokens": prompt, "n_ctx": context}
	return e
}
