package serve_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chulengo/serve"
)

func TestKeys(t *testing.T) {
	s := ready(t, serve.Options{APIKeys: []string{"first-key", "second-key"}, BasePath: "/llm"}, says("hi"))
	for _, c := range []struct {
		method, path  string
		name, value   string
		want          int
		body          object
		kind, message string
	}{
		{"GET", "/llm/health", "", "", 200, nil, "", ""},
		{"GET", "/llm/readyz", "", "", 200, nil, "", ""},
		{"GET", "/llm/version", "", "", 200, nil, "", ""},
		{"GET", "/llm/", "", "", 401, nil, "", ""},
		{"GET", "/llm/metrics", "", "", 401, nil, "", ""},
		{"GET", "/llm/metrics", "Authorization", "Bearer first-key", 200, nil, "", ""},
		{"GET", "/llm/api/status", "", "", 401, nil, "", ""},
		{"GET", "/llm/api/status", "X-Api-Key", "second-key", 200, nil, "", ""},
		{"POST", "/llm/api/generate", "", "", 401, object{"user_input": "x"}, "", ""},
		{"GET", "/llm/v1/models", "", "", 401, nil, "authentication_error", "invalid_api_key"},
		{"GET", "/llm/v1/models", "Authorization", "Bearer wrong", 401, nil, "authentication_error", "invalid_api_key"},
		{"GET", "/llm/v1/models", "Authorization", "Bearer second-key", 200, nil, "", ""},
		{"GET", "/llm/nothing", "", "", 401, nil, "", ""},
	} {
		p := s.program()
		if c.name != "" {
			p.header.Set(c.name, c.value)
		}
		status, o := p.do(c.method, c.path, c.body)
		if status != c.want {
			t.Errorf("%s %s with %q: %d %v, want %d", c.method, c.path, c.value, status, o, c.want)
		}
		if c.kind != "" {
			e, _ := o["error"].(object)
			if e["type"] != c.kind || e["code"] != c.message {
				t.Errorf("%s %s: %v", c.method, c.path, o)
			}
		}
	}
	if log := s.log.String(); strings.Contains(log, "first-key") || strings.Contains(log, "second-key") {
		t.Error("a key is in the log")
	}
}

func TestLogin(t *testing.T) {
	s := ready(t, serve.Options{APIKeys: []string{"first-key"}, BasePath: "/llm"}, says("hi"))
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := s.program()
	c.http.Jar = jar
	text := func(r *http.Response, err error) (int, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		data, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(data)
	}
	if status, page := text(c.http.Get(s.url + "/llm/")); status != 401 || !strings.Contains(page, `action="api/login?lang=zh"`) {
		t.Fatalf("before the login: %d %s", status, page)
	}
	if status, page := text(c.http.PostForm(s.url+"/llm/api/login", url.Values{"key": {"wrong"}})); status != 401 || !strings.Contains(page, `action="login?lang=zh"`) || !strings.Contains(page, "密钥不正确") {
		t.Fatalf("a wrong key: %d %s", status, page)
	}
	c.header.Set("Origin", "https://evil.example")
	if status, o := c.post("/llm/api/login", object{"key": "first-key"}); status != 403 {
		t.Fatalf("a login from another site: %d %v", status, o)
	}
	c.header.Del("Origin")
	if status, page := text(c.http.PostForm(s.url+"/llm/api/login", url.Values{"key": {"first-key"}})); status != 200 || strings.Contains(page, "password") {
		t.Fatalf("the form does not lead to the page: %d %s", status, page)
	}
	if status, o := c.post("/llm/api/generate", object{"user_input": "x"}); status != 200 || o["response"] != "hi" {
		t.Errorf("logged in: %d %v", status, o)
	}
	c.header.Set("Sec-Fetch-Site", "cross-site")
	if status, o := c.post("/llm/api/generate", object{"user_input": "x"}); status != 401 {
		t.Errorf("another site's page uses the login: %d %v", status, o)
	}
	c.header.Del("Sec-Fetch-Site")
	c.post("/llm/api/logout", object{})
	if status, o := c.do("GET", "/llm/api/status", nil); status != 401 || o["login"] != true {
		t.Errorf("logged out: %d %v", status, o)
	}
	for _, body := range []object{{}, {"key": 3}, {"key": nil}} {
		if status, o := c.post("/llm/api/login", body); status != 400 || !strings.Contains(o["error"].(string), "key") {
			t.Errorf("%v: %d %v", body, status, o)
		}
	}
	if status, o := c.post("/llm/api/login", object{"key": "first-key"}); status != 200 || o["success"] != true {
		t.Errorf("login as JSON: %d %v", status, o)
	}
	refused := 0
	for range 20 {
		if status, _ := c.post("/llm/api/login", object{"key": "guess"}); status == 429 {
			refused++
		}
	}
	if refused == 0 {
		t.Error("keys may be guessed without end")
	}
}

func TestHosts(t *testing.T) {
	s := ready(t, serve.Options{AllowedHosts: []string{"chat.example"}, Origins: []string{"https://app.example"}}, says("hi"))
	for host, want := range map[string]int{"": 200, "localhost": 200, "chat.example": 200, "evil.example": 403, "chat.example:81": 200} {
		r, _ := http.NewRequest("GET", s.url+"/api/status", nil)
		if host != "" {
			r.Host = host
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("Host %q: %d, want %d", host, response.StatusCode, want)
		}
	}
	r, _ := http.NewRequest("OPTIONS", s.url+"/v1/chat/completions", nil)
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("X-Request-Id", "abc-1")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 204 || response.Header.Get("Access-Control-Allow-Origin") != "https://app.example" || response.Header.Get("X-Request-Id") != "abc-1" {
		t.Errorf("preflight: %d %v", response.StatusCode, response.Header)
	}
}

func TestRateLimit(t *testing.T) {
	s := ready(t, serve.Options{APIKeys: []string{"a", "b"}, RateLimit: 0.01, RateBurst: 2}, says("hi"))
	with := func(key string) *client {
		p := s.program()
		p.header.Set("X-Api-Key", key)
		return p
	}
	for i, want := range []int{200, 200, 429} {
		if status, o := with("a").do("GET", "/v1/models", nil); status != want {
			t.Errorf("request %d: %d %v, want %d", i, status, o, want)
		}
	}
	if status, _ := with("b").do("GET", "/v1/models", nil); status != 200 {
		t.Errorf("another key: %d", status)
	}
	r := with("a").request(t.Context(), "GET", "/v1/models", nil)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Header.Get("Retry-After") != "100" && response.Header.Get("Retry-After") != "99" || response.Header.Get("X-Should-Retry") == "false" {
		t.Errorf("header of 429: %v", response.Header)
	}
	if status, _ := s.program().do("GET", "/health", nil); status != 200 {
		t.Errorf("/health counts for the rate: %d", status)
	}
}

func TestHealthAndMetrics(t *testing.T) {
	s := launch(t, serve.Options{Version: "v1"})
	p := s.program()
	if status, o := p.do("GET", "/health", nil); status != 503 || o["error"].(object)["message"] != "Loading model" {
		t.Errorf("while loading: %d %v", status, o)
	}
	for name := range scrape(t, s.url) {
		if strings.HasPrefix(name, "chulengo:") && !strings.HasPrefix(name, "chulengo:build_info") {
			t.Errorf("there is %s before the model", name)
		}
	}
	b := says("h", "i")
	b.Hold = make(chan struct{})
	b.Model.Name = "fake"
	s.server.SetReady(b)
	if status, o := p.do("GET", "/readyz", nil); status != 200 || o["status"] != "ready" {
		t.Errorf("ready: %d %v", status, o)
	}
	if _, o := p.do("GET", "/version", nil); o["version"] != "v1" {
		t.Errorf("version: %v", o)
	}
	response, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	for _, name := range []string{"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total", "generation_tokens_total", "num_preemptions_total", "prefix_cache_hits_total"} {
		if !strings.Contains(string(text), "\nchulengo:"+name+`{model_name="fake"} `) {
			t.Errorf("no %s in the metrics:\n%s", name, text)
		}
	}
	// While the server drains, a running answer goes on and nobody is sent here any more.
	go func() { b.Hold <- struct{}{} }()
	stream := p.open("POST", "/api/generate", object{"user_input": "x", "stream": true})
	if stream.next() == nil {
		t.Fatal("the answer does not begin")
	}
	s.end()
	eventually(t, "the server drains", func() bool {
		status, o := p.do("GET", "/readyz", nil)
		return status == 503 && o["status"] == "Shutting down"
	})
	close(b.Hold)
	if last := stream.rest(); last["done"] != true {
		t.Errorf("a running answer ends with %v", last)
	}
}

func TestLogPrompts(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := ready(t, serve.Options{LogPrompts: on}, says("hi"))
		s.program().post("/api/generate", object{"user_input": "secret words"})
		if got := strings.Contains(s.log.String(), "secret words"); got != on {
			t.Errorf("LogPrompts %v: contents in the log: %v", on, got)
		}
	}
}

// TestNginx runs behind nginx as its manual begins: proxy_pass and nothing else, and then with the usual headers.
func TestNginx(t *testing.T) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if _, err = os.Stat("/usr/sbin/nginx"); err != nil {
			t.Skip("nginx is not installed")
		}
		binary = "/usr/sbin/nginx"
	}
	b := says("a", "b")
	s := ready(t, serve.Options{BasePath: "/llm", AllowedHosts: []string{"chat.example"}, TrustedProxies: []string{"127.0.0.1"}}, b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server {
    listen %[2]s;
    location /llm/ { proxy_pass %[3]s; }
    location /full/ {
      proxy_pass %[3]s/llm/;
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Host $http_host;
    }
  }
}
`, dir, front, s.url)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := exec.Command(binary, "-p", dir, "-c", file)
	nginx.Stderr = os.Stderr
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nginx.Process.Kill()
		nginx.Wait()
	})
	eventually(t, "nginx listens", func() bool {
		c, err := net.DialTimeout("tcp", front, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	for _, base := range []string{"/llm", "/full"} {
		jar, _ := cookiejar.New(nil)
		c := &client{&site{t: t, url: "http://" + front}, &http.Client{Jar: jar}, http.Header{}}
		if status, _ := c.do("GET", base+"/", nil); status != 200 {
			t.Fatalf("%s: the page: %d", base, status)
		}
		// A browser at a LAN name sends Origin and no Sec-Fetch-Site; nginx alone replaces Host by its upstream's.
		c.header.Set("Origin", "http://chat.example")
		status, o := c.post(base+"/api/generate", object{"user_input": "x"})
		if status != 200 || o["response"] != "ab" {
			t.Errorf("%s: %d %v", base, status, o)
		}
		stream := c.open("POST", base+"/api/generate", object{"user_input": "y", "stream": true})
		if last := stream.rest(); last["done"] != true || stream.text != "ab" {
			t.Errorf("%s: the stream ends with %v after %q", base, last, stream.text)
		}
	}
}
