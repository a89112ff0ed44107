package hub

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
)

// remoteFile is one line of a hub's listing.
type remoteFile struct {
	path   string // slash-separated, checked by safePath
	size   int64  // bytes
	digest digest // zero if the hub gives none
}

// digest is what a hub says of a file's content.
type digest struct {
	algo string // "sha256", or "git": SHA-1 over git's blob header and the content
	hex  string // lower case
}

func (d digest) String() string {
	if d.hex == "" {
		return ""
	}
	return d.algo + ":" + d.hex
}

// newDigest returns the zero digest where s is not the hexadecimal of n bytes.
func newDigest(algo, s string, n int) digest {
	s = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(s), "sha256:"))
	if raw, err := hex.DecodeString(s); err != nil || len(raw) != n {
		return digest{}
	}
	return digest{algo, s}
}

// list returns the files of ref, sorted by path, directories left out.
func (c *client) list(ctx context.Context, ref Ref) ([]remoteFile, error) {
	list := c.listHF
	if c.site.hub == ModelScope {
		list = c.listMS
	}
	files, err := list(ctx, ref)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := safePath(f.path); err != nil {
			return nil, fail(ErrUnsafeName, err, "%[1]s: the listing names %[2]q: %[3]v; nothing was downloaded",
				"%[1]s：文件列表中有不安全的文件名 %[2]q（%[3]v）；没有下载任何文件", ref, f.path, err)
		}
		if f.size < 0 {
			return nil, fail(ErrProtocol, nil, "%[1]s: the listing gives %[2]s the size %[3]d", "%[1]s：文件列表中 %[2]s 的大小为 %[3]d", ref, f.path, f.size)
		}
	}
	slices.SortFunc(files, func(a, b remoteFile) int { return strings.Compare(a.path, b.path) })
	return slices.CompactFunc(files, func(a, b remoteFile) bool { return a.path == b.path }), nil
}

// safePath accepts only names that stay inside the folder on every operating system, and keeps our own folder ours.
func safePath(path string) error {
	switch {
	case !utf8.ValidString(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("control characters or invalid UTF-8")
	case strings.Contains(path, `\`):
		return errors.New("backslash")
	case runtime.GOOS == "windows" && strings.ContainsAny(path, `:*?"<>|`):
		return errors.New("a character that Windows does not allow")
	case !filepath.IsLocal(filepath.FromSlash(path)):
		return errors.New("leaves the folder")
	}
	for i, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." {
			return errors.New("leaves the folder, or is not in its simplest form")
		}
		if len(part) > 240 {
			return errors.New("longer than 240 bytes") // leaves room for .part.json below the usual limit of 255
		}
		if i == 0 && strings.EqualFold(part, metaDir) {
			return errors.New("reserved for chulengo")
		}
	}
	return nil
}

// listHF reads /api/models/ORG/NAME/tree/REVISION, page after page. Big files (Git LFS, Xet) come with their SHA-256,
// the others with their git object id.
func (c *client) listHF(ctx context.Context, ref Ref) ([]remoteFile, error) {
	address := c.site.endpoint + "/api/models/" + ref.Repo() + "/tree/" + url.PathEscape(ref.revision())
	query := "recursive=true"
	var files []remoteFile
	for seen := map[string]bool{}; query != ""; {
		if seen[query] {
			return nil, fail(ErrProtocol, nil, "%[1]s: the pages of the listing go in circles", "%[1]s：文件列表的分页出现循环", ref)
		}
		seen[query] = true
		var page []struct {
			Type, Path, OID string
			Size            int64
			LFS             *struct {
				OID  string
				Size int64
			}
		}
		header, err := c.getJSON(ctx, ref, address+"?"+query, &page)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if e.Type != "file" {
				continue
			}
			f := remoteFile{e.Path, e.Size, newDigest("git", e.OID, 20)}
			if e.LFS != nil {
				f.size, f.digest = max(e.Size, e.LFS.Size), newDigest("sha256", e.LFS.OID, 32)
			}
			files = append(files, f)
		}
		query = nextQuery(header)
	}
	return files, nil
}

var nextLink = regexp.MustCompile(`<([^>]*)>\s*;[^,<]*\brel="?next"?`)

// nextQuery returns the query of the next page, or "". Only the query is taken from the link: mirrors pass on links to
// the original host, and the token must not follow them.
func nextQuery(h http.Header) string {
	m := nextLink.FindStringSubmatch(strings.Join(h.Values("Link"), ", "))
	if m == nil {
		return ""
	}
	u, err := url.Parse(m[1])
	if err != nil {
		return ""
	}
	return u.RawQuery
}

// listMS reads /api/v1/models/ORG/NAME/repo/files, which comes in one piece.
func (c *client) listMS(ctx context.Context, ref Ref) ([]remoteFile, error) {
	query := url.Values{"Revision": {ref.revision()}, "Recursive": {"True"}}
	var answer struct {
		Code    int
		Message string
		Data    struct {
			Files []struct {
				Path, Type, Sha256 string
				Size               int64
			}
		}
	}
	_, err := c.getJSON(ctx, ref, c.site.endpoint+"/api/v1/models/"+ref.Repo()+"/repo/files?"+query.Encode(), &answer)
	if err != nil {
		return nil, err
	}
	if answer.Code != 0 && answer.Code != http.StatusOK {
		return nil, fail(ErrNotFound, nil, "%[1]s: ModelScope says %[2]d: %[3]q", "%[1]s：ModelScope 返回 %[2]d：%[3]q", ref, answer.Code, answer.Message)
	}
	var files []remoteFile
	for _, e := range answer.Data.Files {
		if e.Type != "tree" {
			files = append(files, remoteFile{e.Path, e.Size, newDigest("sha256", e.Sha256, 32)})
		}
	}
	return files, nil
}

// getJSON fetches and decodes one answer of the API, trying again if it breaks off.
func (c *client) getJSON(ctx context.Context, ref Ref, address string, into any) (http.Header, error) {
	const limit = 64 << 20 // bytes; the longest listings are a few megabytes
	var last error
	for range retries {
		resp, err := c.get(ctx, ref, address, nil)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
		resp.Body.Close()
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			last = c.unreachable(ref, resp.Request.URL.Host, err)
			continue
		}
		if err := json.Unmarshal(body, into); err != nil {
			return nil, fail(ErrProtocol, err, "%[1]s: %[2]s did not answer with a file listing (%[3]v); is the endpoint right, or does a login page of the network answer?",
				"%[1]s：%[2]s 返回的不是文件列表（%[3]v）；请检查下载源地址，或网络是否需要登录", ref, resp.Request.URL.Host, err)
		}
		return resp.Header, nil
	}
	return nil, last
}

// messageIn returns the error text in a JSON answer of either hub.
func messageIn(body []byte) string {
	var m struct{ Error, Message string } // field names match in any case
	if json.Unmarshal(body, &m) != nil {
		return ""
	}
	if m.Message != "" {
		return m.Message
	}
	return m.Error
}

// fileURL is the address of a file's content.
func (c *client) fileURL(ref Ref, path string) string {
	if c.site.hub == ModelScope {
		query := url.Values{"Revision": {ref.revision()}, "FilePath": {path}}
		return c.site.endpoint + "/api/v1/models/" + ref.Repo() + "/repo?" + query.Encode()
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return c.site.endpoint + "/" + ref.Repo() + "/resolve/" + url.PathEscape(ref.revision()) + "/" + strings.Join(parts, "/")
}
