package serve

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	_, err = New(Options{Addr: taken.Addr().String(), DataDir: dir})
	var typed *ListenError
	if !errors.As(err, &typed) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v", err)
	}
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for lang, word := range map[Lang]string{Chinese: "已被占用", English: "already in use"} {
		if text := typed.Text(lang); !strings.Contains(text, word) || !strings.Contains(text, port) || strings.Contains(text, "\n") {
			t.Errorf("%s: %q", lang, text)
		}
	}
	for _, addr := range []string{"5000", "127.0.0.1", "127.0.0.1:http:1", "127.0.0.1:70000", "192.0.2.1:0", "127.0.0.1:x"} {
		if _, err := New(Options{Addr: addr}); !errors.As(err, &typed) || !strings.Contains(typed.Text(Chinese), addr) {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

func TestReach(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, test := range []struct{ addr, base, want string }{
		{"127.0.0.1:5000", "", "http://localhost:5000/"},
		{"[::1]:5000", "/chat", "http://localhost:5000/chat/"},
		{"127.0.0.2:5000", "", "http://127.0.0.2:5000/"},
	} {
		if got := Reach(addr(test.addr), test.base, English); got != test.want {
			t.Errorf("%s: got %q, want %q", test.addr, got, test.want)
		}
	}
	for _, listen := range []string{"0.0.0.0:5000", "[::]:5000"} {
		lines := strings.Split(Reach(addr(listen), "", Chinese), "\n")
		if lines[0] != "http://localhost:5000/" || lines[len(lines)-1] != anyone.zh {
			t.Errorf("%s: got %q", listen, lines)
		}
		for _, ip := range lanAddresses(listen[0] == '0') {
			if want := "http://" + net.JoinHostPort(ip.String(), "5000") + "/"; !strings.Contains(strings.Join(lines, "\n")+"\n", want+"\n") {
				t.Errorf("%s: %s is missing in %q", listen, want, lines)
			}
		}
	}
	if got := Reach(addr("192.168.1.7:80"), "", English); got != "http://192.168.1.7:80/\n"+anyone.en {
		t.Errorf("got %q", got)
	}
}
