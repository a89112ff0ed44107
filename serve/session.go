package serve

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	cookieName = "chulengo_session"
	keyFile    = "session.key" // within the data folder
	keyBytes   = 32

	// cookieAge is the longest that browsers keep a cookie; every visit renews it.
	cookieAge = 400 * 24 * time.Hour

	// maxTokens bounds the sessions in one cookie. Cookies know no ports: every chulengo on one host name reads and
	// writes the same one, so each keeps the others' sessions beside its own.
	maxTokens      = 4
	tokenSeparator = "~"
)

// session is a browser's: who it is, and the conversation that the tutorial's page talks in.
type session struct {
	owner  string // UUID
	chatID string // UUID
}

func newSession() session { return session{uuid.NewString(), uuid.NewString()} }

// visits remembers the conversations that visits to the page have named, of which the history knows nothing until
// something is said in them. It forgets the oldest; a browser's own is known by its cookie as well.
type visits struct {
	mu     sync.Mutex
	owners map[string]string // by conversation
	ids    []string          // a ring
	next   int
}

const maxVisits = 10_000

func (v *visits) add(s session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.owners[s.chatID]; known {
		return
	}
	if v.owners == nil {
		v.owners, v.ids = map[string]string{}, make([]string, maxVisits)
	}
	delete(v.owners, v.ids[v.next])
	v.ids[v.next], v.owners[s.chatID] = s.chatID, s.owner
	v.next = (v.next + 1) % maxVisits
}

func (v *visits) owner(chatID string) (owner string, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	owner, known = v.owners[chatID]
	return owner, known
}

// keyring signs and checks session cookies.
type keyring struct {
	key []byte
}

// token is owner.chat.signature.
func (k keyring) token(s session) string {
	text := s.owner + "." + s.chatID
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte("chulengo session 1\n" + text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// parse gives the session of a token that we signed.
func (k keyring) parse(token string) (session, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return session{}, false
	}
	s := session{parts[0], parts[1]}
	return s, hmac.Equal([]byte(token), []byte(k.token(s)))
}

// read finds our session among a request's cookies, and the tokens that other servers signed.
func (k keyring) read(r *http.Request) (s session, ok bool, others []string) {
	for _, c := range r.CookiesNamed(cookieName) {
		for _, token := range strings.Split(c.Value, tokenSeparator) {
			if found, ours := k.parse(token); ours && !ok {
				s, ok = found, true
			} else if !ours && token != "" && len(others) < maxTokens-1 {
				others = append(others, token)
			}
		}
	}
	return s, ok, others
}

// write sets or renews the cookie.
func (k keyring) write(w http.ResponseWriter, r *http.Request, path string, s session, others []string) {
	http.SetCookie(w, &http.Cookie{
		Name:     cookieName,
		Value:    strings.Join(append([]string{k.token(s)}, others...), tokenSeparator),
		Path:     path,
		MaxAge:   int(cookieAge / time.Second),
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
		Secure:   visitorOf(r).Secure, // over plain http a Secure cookie would never come back
	})
}

// openKey reads the signing key of a data folder, or makes it; "" gives a key that lives as long as the process. The
// caller holds the folder's store, so no other process makes one at the same time.
func openKey(dir string) (keyring, error) {
	fresh := make([]byte, keyBytes)
	rand.Read(fresh)
	if dir == "" {
		return keyring{fresh}, nil
	}
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		key, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || len(key) != keyBytes {
			return keyring{}, fmt.Errorf("serve: %s is not a session key (want %d hexadecimal digits); removing it makes a new one and signs every browser out",
				path, 2*keyBytes)
		}
		return keyring{key}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return keyring{}, fmt.Errorf("serve: session key: %w", err)
	}
	if err := writeAtomically(path, []byte(hex.EncodeToString(fresh)+"\n")); err != nil {
		return keyring{}, fmt.Errorf("serve: session key: %w", err)
	}
	return keyring{fresh}, nil
}

// writeAtomically makes a file that only its owner may read: whole, or not at all.
func writeAtomically(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// sameOrigin reports whether a request may act for its browser's session. Requests that another site's page causes may
// not: they are treated as if they had no cookie. No header is required; programs other than browsers send neither.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		// Set by the browser alone. A link on another site may open the page, as long as it only opens it.
		link := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Method == http.MethodGet
		return site == "same-origin" || site == "none" || link
	}
	origin := r.Header.Get("Origin") // no Sec-Fetch-Site over plain http at a LAN name
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	// A proxy may have put its upstream's name in Host: a trusted one tells the client's, and the operator knows it.
	v := visitorOf(r)
	return strings.EqualFold(u.Host, r.Host) || strings.EqualFold(u.Host, v.Host) || v.guard != nil && v.guard.Listed(u.Host)
}
