package serve_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// measuredServer, in the environment, makes this test binary a server whose heap is asked for through its standard
// input: a line each time. "speak" lets all answers end first.
const measuredServer = "CHULENGO_TEST_MEASURED_SERVER"

func serveMeasured() {
	server, err := serve.New(serve.Options{Addr: "127.0.0.1:0", SaveEvery: 100 * time.Millisecond, KeepAlive: time.Second,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	server.SetReady(&fake.Backend{Hold: make(chan struct{}), Script: func(string) ([]string, error) { return []string{"a"}, nil }})
	go server.Run(context.Background())
	fmt.Println("http://" + server.Addr().String())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		runtime.GC()
		runtime.GC() // what pools kept over the first
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Println(m.HeapAlloc, m.StackInuse, runtime.NumGoroutine())
	}
	os.Exit(0)
}

// heap is what the measured server says of itself.
type heap struct{ alloc, stacks, goroutines int64 }

// Connections that wait, subscribers of an answer, and running answers cost at most 64 KiB each, stacks included, and
// give it back.
func TestHeapOfManyConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("two thousand connections")
	}
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), measuredServer+"=1")
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer command.Wait()
	defer command.Process.Kill()
	out := bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("%q, %v", line, err)
	}
	addr := strings.TrimPrefix(strings.TrimSpace(line), "http://")
	measure := func() (h heap) {
		t.Helper()
		fmt.Fprintln(in)
		if _, err := fmt.Fscanln(out, &h.alloc, &h.stacks, &h.goroutines); err != nil {
			t.Fatal(err)
		}
		return h
	}
	// open sends a request on a connection of its own and reads the beginning of its response.
	open := func(request string, wants string) net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return nil
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		fmt.Fprint(conn, request)
		var text []byte
		for piece := make([]byte, 512); !strings.Contains(string(text), wants); {
			n, err := conn.Read(piece)
			if err != nil {
				t.Errorf("%.40q: %v after %q", request, err, text)
				return conn
			}
			text = append(text, piece[:n]...)
		}
		return conn
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }
	post := func(body string) string {
		return fmt.Sprintf("POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	ask := func(id int) string {
		return post(fmt.Sprintf(`{"user_input": "Q", "chat_id": "c%d", "stream": true, "progress": true}`, id))
	}
	many := func(n int, dial func(i int) net.Conn) (all []net.Conn) {
		all = make([]net.Conn, n)
		var wait sync.WaitGroup
		for w := range 8 {
			wait.Go(func() {
				for i := w; i < n; i += 8 {
					all[i] = dial(i)
				}
			})
		}
		wait.Wait()
		return all
	}
	settled := func(goroutines int64) (h heap) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if h = measure(); h.goroutines <= goroutines || time.Now().After(end) {
				return measure() // the last may have ended between collection and count
			}
		}
	}
	shut := func(all []net.Conn) {
		for _, c := range all {
			if c != nil {
				c.Close()
			}
		}
	}

	// The runtime keeps descriptors of goroutines that ended, so what is measured first is a server that has had as
	// many before.
	shut(many(2000, func(i int) net.Conn { return open(ask(-1-i), "progress") }))
	before := settled(12)
	for _, test := range []struct {
		what string
		n    int
		dial func(i int) net.Conn
	}{
		{"idle connections", 2000, func(int) net.Conn { return open(get("/api/status"), "state") }},
		{"active streams", 200, func(i int) net.Conn { return open(ask(i), "progress") }},
		{"subscribers of one answer", 2000, func(i int) net.Conn { return open(get("/api/conversations/one/stream"), "event-stream") }},
	} {
		var first net.Conn
		if strings.HasPrefix(test.what, "subscribers") {
			first = open(post(`{"user_input": "Q", "chat_id": "one", "stream": true, "progress": true}`), "progress")
		}
		all := many(test.n, test.dial)
		during := measure()
		each := (during.alloc + during.stacks - before.alloc - before.stacks) / int64(test.n)
		shut(append(all, first))
		after := settled(before.goroutines)
		t.Logf("%d %s: %d B each (heap %d → %d → %d B)", test.n, test.what, each, before.alloc, during.alloc, after.alloc)
		if each > 64<<10 {
			t.Errorf("%s: %d bytes each, want at most 65536", test.what, each)
		}
		if limit := before.alloc * 105 / 100; after.alloc > limit || after.goroutines > before.goroutines {
			t.Errorf("%s: afterwards the heap has %d bytes and %d goroutines, want %d and %d at most",
				test.what, after.alloc, after.goroutines, limit, before.goroutines)
		}
	}
}

// Readers that do not read hold up neither the model nor other readers, of the same answer or of others. They would for
// half a minute, until they are taken for gone; patience is less than that.
func TestSlowReadersHoldUpNobody(t *testing.T) {
	const readers, pieceLength, length = 3, 128 << 10, 6 << 20 // more than a socket's buffers hold: 4 MiB
	pieces := slices.Repeat([]string{strings.Repeat("x", pieceLength)}, length/pieceLength)
	s := ready(t, serve.Options{}, says(pieces...))
	c := s.program()
	for i := range readers {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.(*net.TCPConn).SetReadBuffer(4096)
		body := fmt.Sprintf(`{"user_input": "Q", "chat_id": "slow%d", "stream": true}`, i)
		fmt.Fprintf(conn, "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the slow readers' answers", func() bool { _, _, ended := s.backend.Counts(); return ended == readers })
	for i := range readers { // they come to the history, whole
		path := fmt.Sprintf("/api/conversations/slow%d", i)
		eventually(t, "the end of an answer", func() bool { status, _ := c.do("GET", path+"/stream?from=1000000000", nil); return status == 204 })
		_, got := c.do("GET", path, nil)
		if m := got["messages"].([]any); len(m) != 2 || len(m[1].(object)["content"].(string)) != length {
			t.Errorf("conversation %d: %d messages", i, len(m))
		}
	}
	if status, got := c.post("/api/generate", object{"user_input": "Q", "chat_id": "slow0"}); status != 200 || len(got["response"].(string)) != length {
		t.Errorf("the next question: %d", status)
	}
}
