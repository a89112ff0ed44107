package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	userAgent = "chulengo"
	// patience is the longest Retry-After that is waited out; beyond it the user is told instead.
	patience = 5 * time.Minute
	// stall is how long a connection may stay silent.
	stall = time.Minute
	// retries is how often in a row a request, or a body that breaks off, is tried again without progress.
	retries = 5
)

// client talks to one hub.
type client struct {
	site site
	http *retryablehttp.Client
}

// newClient makes a client whose pauses between tries begin at pause.
func newClient(s site, pause time.Duration) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone() // honours the proxy variables
	// HTTP/2 would send all ranges of a file over one TCP connection, which is what parallel ranges are to avoid.
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	transport.ForceAttemptHTTP2 = false
	transport.DisableCompression = true // ranges and sizes are those of the file
	transport.ResponseHeaderTimeout = stall
	transport.MaxIdleConnsPerHost = 16

	c := &client{site: s, http: retryablehttp.NewClient()}
	c.http.HTTPClient = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	c.http.Logger = nil
	c.http.RetryMax = retries
	c.http.RetryWaitMin = pause
	c.http.RetryWaitMax = 60 * pause
	c.http.CheckRetry = checkRetry
	c.http.ErrorHandler = retryablehttp.PassthroughErrorHandler // the last answer says more than "giving up"
	return c
}

// checkRedirect drops credentials as soon as a redirect leaves the host that they are for. (net/http would keep them
// for subdomains, which is where content delivery networks live.)
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if !sameOrigin(req.URL, via[0].URL) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// checkRetry adds to the library's policy (connection failures, 429, 5xx) the other transient statuses, and takes from
// it waits that nobody wants to sit through.
func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() == nil && err == nil {
		if _, long := retryAfter(resp); long {
			return false, nil
		}
		if resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode == http.StatusTooEarly {
			return true, nil
		}
	}
	return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
}

// retryAfter returns how long a 429 or 503 asks to wait, and whether that is beyond patience.
func retryAfter(resp *http.Response) (wait time.Duration, long bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	if resp.Header.Get("Retry-After") == "" {
		return 0, false
	}
	wait = retryablehttp.DefaultBackoff(0, 0, 0, resp)
	return wait, wait > patience
}

// get sends a GET with credentials, if address lies on the hub itself, and returns an answer with status 2xx or, to a
// request with a Range, 416. Transient failures are tried again.
func (c *client) get(ctx context.Context, ref Ref, address string, header http.Header) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fail(ErrNetwork, err, "%[1]s: bad endpoint %[2]q: %[3]v", "%[1]s：下载源地址 %[2]q 有误：%[3]v", ref, c.site.endpoint, err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	home, err := url.Parse(c.site.endpoint)
	if err == nil && sameOrigin(req.URL, home) && c.site.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.site.token)
		if c.site.hub == ModelScope {
			// The older half of ModelScope's API reads the token from this cookie only.
			req.Header.Set("Cookie", (&http.Cookie{Name: "m_session_id", Value: c.site.token}).String())
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.unreachable(ref, req.URL.Host, err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && header.Get("Range") != "" {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.statusError(ref, req.URL, resp)
}

// unreachable words a failure to connect. The address is left out: it may be a signed one.
func (c *client) unreachable(ref Ref, host string, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
		if u, parseErr := url.Parse(wrapped.URL); parseErr == nil {
			host = u.Host
		}
	}
	adviceEn, adviceZh := "check the network, or HTTPS_PROXY", "请检查网络或 HTTPS_PROXY"
	if c.site.hub == HuggingFace {
		adviceEn += "; where Hugging Face cannot be reached, set HF_ENDPOINT to a mirror or pull from " + onModelScope(ref)
		adviceZh += "；若无法访问 Hugging Face，请将 HF_ENDPOINT 设为镜像站，或改从 " + onModelScope(ref) + " 下载"
	}
	return fail(ErrNetwork, err, "%[1]s: cannot reach %[2]s: %[3]v; %[4]s", "%[1]s：无法连接 %[2]s：%[3]v；%[5]s", ref, host, err, adviceEn, adviceZh)
}

// onModelScope returns the reference under which a model of Hugging Face is likely to be on ModelScope.
func onModelScope(ref Ref) string {
	ref.Hub, ref.Revision = ModelScope, ""
	if ref.Org == "meta-llama" {
		ref.Org = "LLM-Research"
	}
	return ref.String()
}

// statusError turns an answer other than 2xx into the error a user can act on.
func (c *client) statusError(ref Ref, asked *url.URL, resp *http.Response) error {
	detail := serverMessage(resp)
	at := resp.Request.URL
	code := resp.StatusCode
	if !sameOrigin(at, asked) {
		// A content delivery network refuses when a signed address has run out, not because of the user's rights.
		return fail(ErrNetwork, &statusCode{code}, "%[1]s: %[2]s answered %[3]d%[4]s", "%[1]s：%[2]s 返回 %[3]d%[4]s", ref, at.Host, code, detail)
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return c.accessError(ref, resp, detail)
	case http.StatusNotFound, http.StatusGone:
		if resp.Header.Get("X-Error-Code") == "RevisionNotFound" {
			return fail(ErrNotFound, &statusCode{code}, "%[1]s: %[2]s has no revision %[3]q", "%[1]s：%[2]s 上没有版本 %[3]q", ref, at.Host, ref.revision())
		}
		return fail(ErrNotFound, &statusCode{code},
			"%[1]s: not found on %[2]s (%[3]d%[4]s); check the spelling, the revision, and, if it is private, the token (%[5]s)",
			"%[1]s：在 %[2]s 上不存在（%[3]d%[4]s）；请检查名称、版本；若为私有模型，请检查令牌（%[5]s）",
			ref, at.Host, code, detail, c.tokenVariable())
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if wait, long := retryAfter(resp); long {
			return fail(ErrNetwork, &statusCode{code}, "%[1]s: %[2]s asks to wait %[3]v (%[4]d); run the same command again then: it continues where it was",
				"%[1]s：%[2]s 要求等待 %[3]v（%[4]d）；请届时重新运行同一命令，将从断点继续", ref, at.Host, wait, code)
		}
	}
	return fail(ErrNetwork, &statusCode{code}, "%[1]s: %[2]s answered %[3]d%[4]s; run the same command again: it continues where it was",
		"%[1]s：%[2]s 返回 %[3]d%[4]s；请重新运行同一命令，将从断点继续", ref, at.Host, code, detail)
}

// accessError words a 401 or 403 of the hub itself: what to accept, which variable to set, and where the same model is
// to be had without either.
func (c *client) accessError(ref Ref, resp *http.Response, detail string) error {
	cause := &statusCode{resp.StatusCode}
	host := resp.Request.URL.Host
	if c.site.hub == ModelScope {
		en, zh := "it is private or needs consent: open its page on "+host+" while logged in, then set MODELSCOPE_API_TOKEN (from https://modelscope.cn/my/myaccesstoken)",
			"该模型为私有或需要授权：请登录后打开它在 "+host+" 上的页面，然后设置 MODELSCOPE_API_TOKEN（见 https://modelscope.cn/my/myaccesstoken）"
		if c.site.token != "" {
			en, zh = "the token in MODELSCOPE_API_TOKEN does not give access: open the model's page on "+host+" with that account, or renew the token",
				"MODELSCOPE_API_TOKEN 中的令牌没有权限：请用该账号打开模型在 "+host+" 上的页面，或更换令牌"
		}
		return fail(ErrGated, cause, "%[1]s: access refused (%[2]d%[3]s); %[4]s", "%[1]s：拒绝访问（%[2]d%[3]s）；%[5]s", ref, resp.StatusCode, detail, en, zh)
	}
	page := "https://huggingface.co/" + ref.Repo()
	en := "accept its terms at " + page + ", then set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)"
	zh := "请在 " + page + " 接受条款，然后把 HF_TOKEN 设为该账号的令牌（https://huggingface.co/settings/tokens）"
	if c.site.token != "" {
		en = "the account of your token may not read it: accept its terms at " + page + " with that account and wait for the approval, or check the token (HF_TOKEN)"
		zh = "令牌所属账号无权读取：请用该账号在 " + page + " 接受条款并等待批准，或检查令牌（HF_TOKEN）"
	}
	otherEn, otherZh := "or look for it on ModelScope, where most models need no token: chulengo pull "+onModelScope(ref),
		"或在 ModelScope 上查找（多数模型无需令牌）：chulengo pull "+onModelScope(ref)
	if ref.Org == "meta-llama" {
		otherEn, otherZh = "or take the same model from ModelScope, without a token: chulengo pull "+onModelScope(ref),
			"或从 ModelScope 下载同一模型，无需令牌：chulengo pull "+onModelScope(ref)
	}
	return fail(ErrGated, cause, "%[1]s: access refused by %[2]s (%[3]d%[4]s): the model is gated, private or does not exist; %[5]s; %[7]s",
		"%[1]s：%[2]s 拒绝访问（%[3]d%[4]s）：该模型需要授权、为私有或不存在；%[6]s；%[8]s",
		ref, host, resp.StatusCode, detail, en, zh, otherEn, otherZh)
}

func (c *client) tokenVariable() string {
	if c.site.hub == ModelScope {
		return "MODELSCOPE_API_TOKEN"
	}
	return "HF_TOKEN"
}

// statusCode is the cause of errors that come from an HTTP status.
type statusCode struct{ code int }

func (s *statusCode) Error() string { return fmt.Sprintf("HTTP status %d", s.code) }

// serverMessage returns ": " and what the hub says of a failure, on one line, or "".
func serverMessage(resp *http.Response) string {
	msg := resp.Header.Get("X-Error-Message")
	if msg == "" && strings.Contains(resp.Header.Get("Content-Type"), "json") {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // best effort: the status is what counts
		msg = messageIn(body)
	}
	msg = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, msg)
	msg = strings.TrimSpace(msg)
	if runes := []rune(msg); len(runes) > 300 {
		msg = string(runes[:300]) + "…"
	}
	if msg == "" {
		return ""
	}
	return ": " + msg
}
