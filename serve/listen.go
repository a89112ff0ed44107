package serve

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strings"
	"syscall"
)

// ListenError says why an address cannot be served.
type ListenError struct {
	Addr string
	Err  error
}

// Text is one sentence for the person who started the server.
func (e *ListenError) Text(lang Lang) string {
	_, port, _ := net.SplitHostPort(e.Addr)
	switch {
	case e.Is(syscall.EADDRINUSE):
		return fmt.Sprintf(message{"端口 %s 已被占用(%s):请结束占用它的程序,或用 --addr 指定另一个地址",
			"port %s is already in use (%s): end the program that has it, or choose another address with --addr"}.in(lang), port, e.Addr)
	case e.Is(syscall.EACCES):
		return fmt.Sprintf(message{"没有权限使用端口 %s(%s):请用 --addr 指定 1024 以上的端口",
			"no permission to use port %s (%s): choose a port above 1023 with --addr"}.in(lang), port, e.Addr)
	case e.Is(syscall.EADDRNOTAVAIL):
		return fmt.Sprintf(message{"%s 不是本机的地址:请用 --addr 指定另一个地址",
			"%s is not an address of this machine: choose another with --addr"}.in(lang), e.Addr)
	}
	return fmt.Sprintf(message{"无法监听 %s: %v", "cannot listen on %s: %v"}.in(lang), e.Addr, e.Err)
}

// Is makes errors.Is(err, syscall.EADDRINUSE) and its like true on Windows too.
func (e *ListenError) Is(target error) bool {
	switch target {
	case syscall.EADDRINUSE:
		return isErrno(e.Err, syscall.EADDRINUSE, 10048)
	case syscall.EACCES:
		return isErrno(e.Err, syscall.EACCES, 10013)
	case syscall.EADDRNOTAVAIL:
		return isErrno(e.Err, syscall.EADDRNOTAVAIL, 10049)
	}
	return false
}

// isErrno compares with the number that Unix knows and with that of Windows' sockets, for which package syscall has
// names of the same spelling but other values.
func isErrno(err error, unix, windows syscall.Errno) bool {
	var got syscall.Errno
	return errors.As(err, &got) && (got == unix || got == windows)
}

func (e *ListenError) Error() string { return "serve: " + e.Text(English) }
func (e *ListenError) Unwrap() error { return e.Err }

// listen opens host:port. Errors are *ListenError.
func listen(addr string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, &ListenError{addr, fmt.Errorf("want HOST:PORT, such as 127.0.0.1:5000: %w", err)}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &ListenError{addr, err}
	}
	return l, nil
}

// Reach tells the person who started a server at which URLs it is found, and by whom. basePath is Options.BasePath.
func Reach(addr net.Addr, basePath string, lang Lang) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	ip, _ := netip.AddrFromSlice(tcp.IP)
	ip = ip.Unmap()
	page := func(host string) string {
		return "http://" + net.JoinHostPort(host, fmt.Sprint(tcp.Port)) + basePath + "/"
	}
	local := page("localhost")
	switch {
	case ip.IsLoopback() && ip != netip.MustParseAddr("127.0.0.1") && ip != netip.IPv6Loopback():
		return page(ip.String()) // another 127.x.y.z, which no name means
	case ip.IsLoopback():
		return local
	case !ip.IsUnspecified():
		return page(ip.WithZone(tcp.Zone).String()) + "\n" + anyone.in(lang)
	}
	lines := []string{local}
	for _, ip := range lanAddresses(tcp.IP.To4() != nil) {
		lines = append(lines, page(ip.String()))
	}
	return strings.Join(append(lines, anyone.in(lang)), "\n")
}

var anyone = message{
	"注意:能通过网络访问本机的任何人都可以打开上面的地址、与模型对话,没有密码,也没有加密;只想自己使用时请用 --addr 127.0.0.1:端口",
	"note: everyone who can reach this machine over the network can open these addresses and talk to the model, without a password or encryption; to keep it to yourself, use --addr 127.0.0.1:PORT",
}

// lanAddresses gives the addresses at which other machines may find this one, IPv4 first.
func lanAddresses(only4 bool) []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Addr
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, _ := netip.AddrFromSlice(n.IP)
		ip = ip.Unmap()
		if ip.IsLoopback() || ip.IsLinkLocalUnicast() || only4 && !ip.Is4() {
			continue
		}
		list = append(list, ip)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Is4() && !list[j].Is4() })
	return list
}
