// Package fetch gets pictures from addresses that clients name, and from nowhere that they should not reach through
// the server: addresses of private networks, of this machine and of clouds' metadata are refused when the connection is
// made, so that neither a name's address nor a redirect gets around it.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"code.dny.dev/ssrf"
)

// Bounds of one fetch.
const (
	timeLimit    = 20 * time.Second
	maxRedirects = 3
	maxAtOnce    = 8
)

// Fetcher gets files over http and https.
type Fetcher struct {
	client *http.Client
	limit  int64
	places chan struct{} // of fetches at a time: each may hold a whole file
}

// New makes a fetcher of files of at most limit bytes.
func New(limit int64, allowed ...ssrf.Option) *Fetcher {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: ssrf.New(allowed...).Safe}
	return &Fetcher{limit: limit, places: make(chan struct{}, maxAtOnce), client: &http.Client{
		Timeout: timeLimit,
		Transport: &http.Transport{
			DialContext:         dialer.DialContext, // and no proxy: it would make the connection in our place
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns: 8, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return check(r.URL)
		},
	}}
}

func check(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("want an http or https address, got %q", u.Scheme)
	case u.Hostname() == "":
		return errors.New("want an address with a host")
	case u.User != nil:
		return errors.New("want an address without a password")
	}
	return nil
}

// Get gets a file. Errors are for the client: they say nothing of the network behind the server.
func (f *Fetcher) Get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("not a valid address")
	}
	if err := check(u); err != nil {
		return nil, err
	}
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("not a valid address")
	}
	r.Header.Set("Accept", "image/png, image/jpeg, image/gif, image/webp, image/bmp")
	r.Header.Set("User-Agent", "chulengo")
	answer, err := f.client.Do(r)
	if err != nil {
		return nil, public(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the address answered %d", answer.StatusCode)
	}
	if answer.ContentLength > f.limit {
		return nil, f.tooLarge()
	}
	file, err := io.ReadAll(io.LimitReader(answer.Body, f.limit+1))
	if err != nil {
		return nil, public(ctx, err)
	}
	if int64(len(file)) > f.limit {
		return nil, f.tooLarge()
	}
	return file, nil
}

func (f *Fetcher) tooLarge() error {
	return fmt.Errorf("want a file of at most %d bytes, got a larger one", f.limit)
}

// public takes the details of a failed connection away.
func public(ctx context.Context, err error) error {
	var timeout net.Error
	var name *net.DNSError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedPort), errors.Is(err, ssrf.ErrProhibitedNetwork):
		return errors.New("this server does not fetch from that address: want a public one, port 80 or 443")
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("the address did not answer in time")
	case errors.As(err, &name):
		return errors.New("the name of the address is not known")
	}
	var in *url.Error
	if errors.As(err, &in) && in.Op == "Get" {
		var op *net.OpError
		if !errors.As(err, &op) {
			return in.Err // a refused redirect, TLS, HTTP
		}
	}
	return errors.New("the address could not be reached")
}
