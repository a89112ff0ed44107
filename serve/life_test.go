package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

func TestStatus(t *testing.T) {
	s := launch(t, serve.Options{Version: "v1", Model: serve.ModelInfo{Name: "soon"}})
	c := s.program()
	get := func() object {
		status, got := c.do("GET", "/api/status", nil)
		if status != 200 || got["version"] != "v1" {
			t.Errorf("got %d %v", status, got)
		}
		return got
	}
	if got := get(); got["state"] != "loading" || got["percent"] != 0.0 || got["model"].(object)["name"] != "soon" {
		t.Errorf("got %v", got)
	}
	s.server.SetProgress(50, 200)
	if got := get(); got["state"] != "loading" || got["percent"] != 25.0 || got["done"] != 50.0 || got["total"] != 200.0 {
		t.Errorf("got %v", got)
	}
	s.server.SetReady(&fake.Backend{Model: serve.ModelInfo{Name: "m", Display: "M", Llama: true, Scout: true, Demo: true, Context: 7}})
	want := object{"name": "m", "display": "M", "llama": true, "scout": true, "demo": true, "context": 7.0, "vision": false}
	if got := get(); got["state"] != "ready" || got["percent"] != 100.0 || got["error"] != "" || !reflect.DeepEqual(got["model"], want) {
		t.Errorf("got %v", got)
	}
}

// A model that cannot be loaded ends the server with the reason.
func TestLoadFailureEndsRun(t *testing.T) {
	s := launch(t, serve.Options{})
	c := s.program()
	c.post("/api/generate", object{})
	reason := errors.New("model.safetensors: a shard is missing")
	s.server.Fail(reason)
	s.server.Fail(errors.New("a second failure"))
	select {
	case err := <-s.ended:
		s.ended <- nil
		if !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run goes on")
	}
	if _, err := http.Get(s.url); err == nil {
		t.Error("the port is still served")
	}
	handler, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer handler.Close()
	handler.Fail(reason)
	if _, err := handler.Handler(), handler.Run(context.Background()); err == nil {
		t.Error("Run without an address gave no error")
	}
}

// At the end running answers finish, new ones are refused.
func TestGracefulEnd(t *testing.T) {
	s := ready(t, serve.Options{DataDir: t.TempDir()}, held("a", "b"))
	c := s.program()
	done, waiting := make(chan object, 1), make(chan int, 1)
	go func() { _, got := c.post("/api/generate", object{"user_input": "Q", "chat_id": "x"}); done <- got }()
	s.speak(1)
	go func() {
		status, _ := c.post("/api/generate", object{"user_input": "Q2", "chat_id": "x"})
		waiting <- status
	}()
	time.Sleep(10 * time.Millisecond)
	s.end()
	if status := <-waiting; status != 503 {
		t.Errorf("a question that waits its turn: %d", status)
	}
	if status, got := s.program().post("/api/generate", object{"user_input": "Q3"}); status != 503 || !strings.Contains(got["error"].(string), "关闭") {
		t.Errorf("a new question: %d %v", status, got)
	}
	select {
	case err := <-s.ended:
		t.Fatalf("Run did not wait: %v", err)
	default:
	}
	s.speak(1)
	if got := <-done; got["response"] != "ab" {
		t.Errorf("got %v", got)
	}
	err := <-s.ended
	s.ended <- nil
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Answers that take too long, or a second signal, end with what they have, which the history keeps.
func TestEndInTheMidstOfAnAnswer(t *testing.T) {
	for _, how := range []string{"timeout", "close"} {
		t.Run(how, func(t *testing.T) {
			o := serve.Options{DataDir: t.TempDir(), DrainTimeout: 20 * time.Millisecond}
			if how == "close" {
				o.DrainTimeout = time.Hour
			}
			s := ready(t, o, held("a", "b"))
			go s.speak(1)
			st := s.program().open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true})
			st.next()
			s.end()
			if how == "close" {
				s.server.Close()
			}
			if last := st.rest(); last["finish_reason"] != "interrupted" || last["response"] != "a" {
				t.Errorf("got %v", last)
			}
			err := <-s.ended
			s.ended <- nil
			if err != nil {
				t.Errorf("Run: %v", err)
			}
			again := ready(t, o, says("c"))
			want := []string{"user: Q", "assistant: a (interrupted)"}
			if got := again.program().messages("x"); !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestRestartKeepsHistoryAndSessions(t *testing.T) {
	o := serve.Options{DataDir: t.TempDir()}
	s := ready(t, o, says("A"))
	c := s.browser()
	id := uuidIn(t, c.page())
	c.post("/api/generate", object{"user_input": "Q1"})
	s.end()
	<-s.ended
	s.ended <- nil

	again := ready(t, o, says("B"))
	c.site, c.url = again, again.url // the cookie knows no ports
	if got := uuidIn(t, c.page()); got != id {
		t.Errorf("the session's id changed from %s to %s", id, got)
	}
	if got := c.listed(); got != id {
		t.Errorf("the list: %q", got)
	}
	c.post("/api/generate", object{"user_input": "Q2"})
	want := []string{"user: Q1", "assistant: A (stop)", "user: Q2", "assistant: B (stop)"}
	if got := c.messages(id); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := fake.Text(again.backend.Requests()[0].Prompt); got != "user: Q1\nassistant: A\nuser: Q2\n" {
		t.Errorf("the prompt: %q", got)
	}
}

// killedServer, in the environment, makes this test binary a server on that data folder or database, to be killed.
const killedServer = "CHULENGO_TEST_KILLED_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(measuredServer) != "" {
		serveMeasured()
	}
	dir := os.Getenv(killedServer)
	if dir == "" {
		code := m.Run()
		serve.EndCluster()
		os.Exit(code)
	}
	o := serve.Options{Addr: "127.0.0.1:0", DataDir: dir, SaveEvery: time.Millisecond}
	if strings.HasPrefix(dir, "postgres:") {
		serve.SetLease(testLease)
		o.Database, o.DataDir = dir, ""
	}
	server, err := serve.New(o)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	b := held("half ", "an ", "answer")
	server.SetReady(b)
	go func() {
		b.Hold <- struct{}{}
		b.Hold <- struct{}{}
	}()
	fmt.Println("http://" + server.Addr().String())
	fmt.Println(server.Run(context.Background()))
	os.Exit(1)
}

// testLease is how long killed servers are taken for alive.
const testLease = 500 * time.Millisecond

// startKilled starts a server that says "half an" and waits to be killed, with a stream of that.
func startKilled(t *testing.T, dir string) (kill func(), st *stream) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), killedServer+"="+dir)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() { command.Process.Kill(); command.Wait() })
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("%q, %v", line, err)
	}

	c := (&site{t: t, url: strings.TrimSpace(line)}).program()
	st = c.open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true})
	for st.text != "half an" {
		if st.next() == nil {
			t.Fatal("the stream ended")
		}
	}
	time.Sleep(100 * time.Millisecond) // the part is saved every millisecond
	return kill, st
}

// A server that is killed in the midst of an answer loses neither the question nor the part that was said.
func TestKilledInTheMidstOfAnAnswer(t *testing.T) {
	dir := t.TempDir()
	kill, _ := startKilled(t, dir)
	// While it lives, nobody else gets at its history.
	var locked *serve.StoreError
	if _, err := serve.New(serve.Options{DataDir: dir}); !errors.As(err, &locked) || locked.Problem != serve.StoreLocked {
		t.Errorf("a second server: %v", err)
	}
	kill()
	again := ready(t, serve.Options{DataDir: dir}, says("B"))
	want := []string{"user: Q", "assistant: half an (interrupted)"}
	if got := again.program().messages("x"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Where servers share a database, those that live settle what the killed one left, and their own answers go on.
func TestKilledBesideAnotherServer(t *testing.T) {
	database := serve.FreshDatabase(t)
	serve.SetLease(testLease)
	living := ready(t, serve.Options{Database: database}, held("whole ", "answer"))
	c := living.program()
	go living.speak(1)
	own := c.open("POST", "/api/generate", object{"user_input": "Q2", "chat_id": "y", "stream": true})
	own.next()
	kill, _ := startKilled(t, database)
	if _, got := c.do("GET", "/api/conversations/x", nil); got["elsewhere"] != true {
		t.Errorf("while it lives: %v", got)
	}
	kill()
	next := make(chan object, 1)
	go func() {
		_, got := c.post("/api/generate", object{"user_input": "Q3", "chat_id": "x"}) // waits for the lease to run out
		next <- got
	}()
	eventually(t, "the next question's answer", func() bool { running, _, _ := living.backend.Counts(); return running == 2 })
	want := []string{"user: Q", "assistant: half an (interrupted)", "user: Q3"}
	if got := c.messages("x"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	living.speak(3)
	if got := <-next; got["response"] != "whole answer" {
		t.Errorf("got %v", got)
	}
	if last := own.rest(); last["response"] != "whole answer" || last["finish_reason"] != "stop" {
		t.Errorf("the living server's own answer: %v", last)
	}
}

// Logs say what happened, not what was said, and name no conversation: its id opens it.
func TestLogsHaveNoContents(t *testing.T) {
	s := ready(t, serve.Options{}, says("SECRETANSWER"))
	c := s.browser()
	id := uuidIn(t, c.page())
	c.post("/api/generate", object{"user_input": "SECRETQUESTION"})
	c.messages(id)
	s.program().post("/api/generate", `{"user_input": SECRETQUESTION`)
	eventually(t, "log lines", func() bool { return strings.Count(s.log.String(), "msg=request") >= 5 })
	log := s.log.String()
	for _, secret := range []string{"SECRET", id} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q:\n%s", secret, log)
		}
	}
	if !strings.Contains(log, "route=/api/conversations/:id") || !strings.Contains(log, "status=400") || !strings.Contains(log, "request=") {
		t.Errorf("the log lacks routes, statuses or ids:\n%s", log)
	}
}

// A connection that sends nothing, or half a request, does not keep the others from being served, and one that stays
// open after a stream serves the next request.
func TestConnections(t *testing.T) {
	s := ready(t, serve.Options{}, says("ok"))
	for _, half := range []string{"", "POST /api/generate HT", "POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, half)
	}
	c := s.program()
	for range 3 {
		if last := c.open("POST", "/api/generate", object{"user_input": "a", "stream": true}).rest(); last["response"] != "ok" {
			t.Errorf("got %v", last)
		}
		if status, _ := c.post("/api/generate", object{"user_input": "a"}); status != 200 {
			t.Errorf("got %d", status)
		}
	}
}
