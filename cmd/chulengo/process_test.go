//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain makes the test binary the program itself when it is started as such, so that signals and exit codes are
// those of a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("CHULENGO_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is the program in a process of its own.
type process struct {
	*exec.Cmd
	out, errout bytes.Buffer // standard output; what lines read of standard error, complete after end
	lines       chan string  // of standard error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), lines: make(chan string, 1000)}
	p.Env = append(os.Environ(), "CHULENGO_TEST_MAIN=1", "LC_ALL=en_US.UTF-8", "HOME="+t.TempDir(), "XDG_DATA_HOME=")
	if device := os.Getenv("CHULENGO_TEST_DEVICE"); device != "" {
		p.Env = append(p.Env, "CHULENGO_DEVICE="+device)
	}
	p.Stdout = &p.out
	pipe, err := p.StderrPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() })
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

// until reads standard error up to a line that matches, and gives what its group holds.
func (p *process) until(t *testing.T, pattern string) string {
	t.Helper()
	re, deadline := regexp.MustCompile(pattern), time.After(time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("ended before %s; standard error %q", pattern, p.errout.String())
			}
			p.errout.WriteString(line + "\n")
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
		case <-deadline:
			t.Fatalf("no %s; standard error %q", pattern, p.errout.String())
		}
	}
}

// end waits for the exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	for line := range p.lines {
		p.errout.WriteString(line + "\n")
	}
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

func TestServe(t *testing.T) {
	data := t.TempDir()
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", data, "--greedy", "--page", file(t, "index.html", "<p>{{ chat_id }}</p>"))
	url := p.until(t, `^(http://localhost:\d+)/$`)
	p.until(t, "chulengo-demo is ready")
	addr := strings.TrimPrefix(url, "http://localhost")

	resp, err := http.Post("http://127.0.0.1"+addr+"/api/generate", "application/json", strings.NewReader(`{"user_input": "What is the capital of France?"}`))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Response string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Response != "The capital of France is Paris." {
		t.Errorf("got %+v (%v)", answer, err)
	}
	resp.Body.Close()
	if resp, err = http.Get("http://127.0.0.1" + addr + "/"); err != nil {
		t.Fatal(err)
	}
	if page, _ := io.ReadAll(resp.Body); !regexp.MustCompile(`^<p>[0-9a-f-]{36}</p>$`).Match(page) {
		t.Errorf("own page: %q", page)
	}
	resp.Body.Close()

	taken := start(t, "serve", "--addr", "127.0.0.1"+addr, "--data-dir", t.TempDir())
	if code := taken.end(t); code != exitBusy || strings.Count(taken.errout.String(), "\n") != 1 || !strings.Contains(taken.errout.String(), "already in use") {
		t.Errorf("taken port: code %d, %q", code, taken.errout.String())
	}
	locked := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", data)
	if code := locked.end(t); code != exitBusy || strings.Count(locked.errout.String(), "\n") != 1 {
		t.Errorf("taken folder: code %d, %q", code, locked.errout.String())
	}

	p.Process.Signal(syscall.SIGINT)
	if code := p.end(t); code != 0 || p.out.Len() > 0 {
		t.Errorf("after SIGINT: code %d, standard output %q, standard error %q", code, p.out.String(), p.errout.String())
	}
}

func TestServeEverywhereWarns(t *testing.T) {
	p := start(t, "serve", "--addr", "0.0.0.0:0", "--data-dir", t.TempDir())
	p.until(t, "everyone who can reach this machine")
	p.Process.Signal(syscall.SIGTERM)
	if code := p.end(t); code != 0 {
		t.Errorf("after SIGTERM: code %d, %q", code, p.errout.String())
	}
}

func TestServeFailsWithTheModel(t *testing.T) {
	dir := copyDemo(t, func(dir string) {
		if err := os.Truncate(dir+"/model-00001-of-00004.safetensors", 1000); err != nil {
			t.Fatal(err)
		}
	})
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--model", dir, "--quiet")
	if code := p.end(t); code != exitModel || strings.Count(p.errout.String(), "\n") != 1 || !strings.HasPrefix(p.errout.String(), "error: cannot use the checkpoint") {
		t.Errorf("code %d, %q", code, p.errout.String())
	}
}

// TestServeWithoutItsDatabase tells of a database that cannot be reached, in one line and without its password.
func TestServeWithoutItsDatabase(t *testing.T) {
	const address = "postgres://me:geheim@127.0.0.1:1/chats?sslmode=disable"
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--quiet", "--database", address)
	if code := p.end(t); code != exitFailed || strings.Count(p.errout.String(), "\n") != 1 ||
		!strings.Contains(p.errout.String(), "postgres://127.0.0.1:1/chats") || strings.Contains(p.errout.String(), "geheim") {
		t.Errorf("code %d, %q", code, p.errout.String())
	}
	p = start(t, "config", "show", "--database", address)
	if code := p.end(t); code != 0 || !strings.Contains(p.out.String(), "xxxxx@127.0.0.1") || strings.Contains(p.out.String(), "geheim") {
		t.Errorf("config: code %d, %q", code, p.out.String())
	}
}

// TestInterrupt ends a long answer: what was said is there, and the exit code says why it ended.
func TestInterrupt(t *testing.T) {
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitTerminated} {
		p := start(t, "generate", "--ignore-eos", "--max-tokens", "30000", "--trace", t.TempDir()+"/t", "--capture", "blocks.0.mlp.hook_expert_indices", "Hello")
		p.until(t, "capturing")
		time.Sleep(300 * time.Millisecond)
		p.Process.Signal(signal)
		if code := p.end(t); code != want || p.out.Len() == 0 || strings.Contains(p.errout.String(), "error") {
			t.Errorf("%v: code %d, %d bytes of answer, standard error %q", signal, code, p.out.Len(), p.errout.String())
		}
	}
}

// TestServeKilled kills servers in the midst of several answers. What clients were told is finished is there after the
// restart, to the byte; what was not is whole up to some point, and says that it was interrupted.
func TestServeKilled(t *testing.T) {
	data := t.TempDir()
	const chats, kills = 4, 3
	finished := make([][]string, chats) // texts by conversation, as its client knows them
	asked := make([]int, chats)
	for round := range kills {
		p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", data, "--temperature", "1.5", "--top-p", "1", "--seed", "1")
		url := "http://127.0.0.1" + p.until(t, `^http://localhost(:\d+)/$`)
		p.until(t, "is ready")
		for i := range chats {
			checkChat(t, url, i, finished[i], asked[i], round)
		}
		var all sync.WaitGroup
		for i := range chats {
			all.Go(func() {
				for { // until the server is gone
					asked[i]++
					resp, err := http.Post(url+"/api/generate", "application/json",
						strings.NewReader(fmt.Sprintf(`{"user_input": "question %d", "chat_id": "chat%d", "stream": true, "detach": true}`, asked[i], i)))
					if err != nil {
						return
					}
					text, done := lastEvent(resp.Body)
					resp.Body.Close()
					if !done {
						return
					}
					finished[i] = append(finished[i], text)
				}
			})
		}
		time.Sleep(time.Duration(400+150*round) * time.Millisecond)
		p.Process.Kill()
		p.end(t)
		all.Wait()
	}
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", data)
	url := "http://127.0.0.1" + p.until(t, `^http://localhost(:\d+)/$`)
	total := 0
	for i := range chats {
		checkChat(t, url, i, finished[i], asked[i], kills)
		total += len(finished[i])
	}
	if total < chats {
		t.Errorf("only %d answers were finished before the servers were killed", total)
	}
}

// lastEvent gives the whole answer of a stream, if it came to its end.
func lastEvent(body io.Reader) (text string, done bool) {
	for lines := bufio.NewScanner(body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		var event struct {
			Done     bool
			Response string
		}
		if ok && json.Unmarshal([]byte(data), &event) == nil && event.Done {
			return event.Response, true
		}
	}
	return "", false
}

// checkChat compares conversation i with what its client knows: every finished answer in order, others interrupted.
func checkChat(t *testing.T, url string, i int, finished []string, asked, kills int) {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("%s/api/conversations/chat%d", url, i))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if asked == 0 {
		return
	}
	var chat struct {
		Messages []struct {
			Role, Content string
			Finish        string `json:"finish_reason"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&chat); err != nil {
		t.Fatal(err)
	}
	if n := len(chat.Messages); n%2 != 0 || n/2 > asked {
		t.Fatalf("chat %d has %d messages after %d questions", i, n, asked)
	}
	unheard := 0
	for k := 0; k < len(chat.Messages); k += 2 {
		question, answer := chat.Messages[k], chat.Messages[k+1]
		if question.Role != "user" || !strings.HasPrefix(question.Content, "question ") || answer.Role != "assistant" || answer.Finish == "" {
			t.Errorf("chat %d, message %d: %+v, %+v", i, k, question, answer)
		}
		switch {
		case len(finished) > 0 && answer.Content == finished[0] && answer.Finish != "interrupted":
			finished = finished[1:]
		case answer.Finish == "interrupted":
		default: // it was finished, but the server was killed before its client heard of it: once for each
			if unheard++; unheard > kills {
				t.Errorf("chat %d, message %d: nobody was told of %+v", i, k, answer)
			}
		}
	}
	if len(finished) > 0 {
		t.Errorf("chat %d: %d finished answers are lost, first %q", i, len(finished), finished[0])
	}
}

// TestServeEndsAtTheSecondSignal asks for an answer of some seconds: at this temperature nothing ends it but its length.
// The first signal waits for it, the second does not.
func TestServeEndsAtTheSecondSignal(t *testing.T) {
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--temperature", "100", "--top-p", "1", "--seed", "1", "--threads", "1")
	addr := p.until(t, `^http://localhost(:\d+)/$`)
	p.until(t, "is ready")
	resp, err := http.Post("http://127.0.0.1"+addr+"/api/generate", "application/json",
		strings.NewReader(`{"user_input": "Hello", "stream": true, "max_new_tokens": 2048}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: ") {
		t.Fatalf("stream began with %q (%v)", line, err)
	}
	p.Process.Signal(syscall.SIGINT)
	p.until(t, "waiting for running answers")
	p.Process.Signal(syscall.SIGINT)
	if code := p.end(t); code != exitInterrupted {
		t.Errorf("code %d, standard error %q", code, p.errout.String())
	}
}
