package hub

import (
	"net/url"
	"strings"
	"unicode"
)

// Hub is one of the two sites.
type Hub string

const (
	ModelScope  Hub = "ms"
	HuggingFace Hub = "hf"
)

// Ref names a repository at a revision.
type Ref struct {
	Hub      Hub    // empty: any
	Org      string // owner: a user or an organization
	Name     string
	Revision string // branch, tag or commit; empty: the hub's default branch
}

// Repo returns ORG/NAME.
func (r Ref) Repo() string { return r.Org + "/" + r.Name }

// String returns the form that ParseRef reads.
func (r Ref) String() string {
	s := r.Repo()
	if r.Hub != "" {
		s = string(r.Hub) + "://" + s
	}
	if r.Revision != "" {
		s += "@" + r.Revision
	}
	return s
}

// revision returns the revision to ask the hub for.
func (r Ref) revision() string {
	if r.Revision != "" {
		return r.Revision
	}
	return r.Hub.defaultRevision()
}

func (h Hub) defaultRevision() string {
	if h == ModelScope {
		return "master"
	}
	return "main"
}

// webHosts maps the hosts whose page addresses people paste.
var webHosts = map[string]Hub{
	"huggingface.co": HuggingFace, "hf.co": HuggingFace, "hf-mirror.com": HuggingFace,
	"modelscope.cn": ModelScope, "modelscope.ai": ModelScope,
}

// ParseRef reads ms://ORG/NAME, hf://ORG/NAME and ORG/NAME, each with an optional @REVISION, and the address of a
// model's page on either hub.
func ParseRef(s string) (Ref, error) {
	bad := func(en, zh string) (Ref, error) {
		return Ref{}, fail(ErrBadRef, nil,
			"%[1]q is not a model reference (%[2]s); want ms://ORG/NAME, hf://ORG/NAME or ORG/NAME, with @REVISION if needed",
			"%[1]q 不是模型引用（%[3]s）；应为 ms://ORG/NAME、hf://ORG/NAME 或 ORG/NAME，必要时加 @REVISION", s, en, zh)
	}
	var ref Ref
	rest := strings.TrimSpace(s)
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		switch strings.ToLower(scheme) {
		case "ms", "modelscope":
			ref.Hub = ModelScope
		case "hf", "huggingface":
			ref.Hub = HuggingFace
		case "http", "https":
			u, err := url.Parse(rest)
			if err != nil {
				return bad("unreadable URL", "无法识别的网址")
			}
			ref.Hub = webHosts[strings.TrimPrefix(strings.ToLower(u.Hostname()), "www.")]
			if ref.Hub == "" {
				return bad("unknown host "+u.Hostname(), "未知主机 "+u.Hostname())
			}
			if after, ok = pageRepo(u.Path); !ok {
				return bad("the URL does not name a model", "网址中没有模型名")
			}
		default:
			return bad("unknown scheme "+scheme+"://", "未知前缀 "+scheme+"://")
		}
		rest = after
	}
	repo, revision, hasRevision := strings.Cut(rest, "@")
	ref.Revision = revision
	if hasRevision && !validRevision(revision) {
		return bad("bad revision", "版本名不合法")
	}
	var ok bool
	if ref.Org, ref.Name, ok = strings.Cut(strings.TrimSuffix(repo, "/"), "/"); !ok {
		return bad("no slash", "缺少斜杠")
	}
	if !validName(ref.Org) || !validName(ref.Name) {
		return bad("bad name", "名称不合法")
	}
	if ref.Hub != "" && ref.Revision == ref.Hub.defaultRevision() {
		ref.Revision = "" // one folder and one name for the default branch
	}
	return ref, nil
}

// pageRepo turns the path of a model's page (/ORG/NAME/tree/REV, /models/ORG/NAME/files) into ORG/NAME[@REV].
func pageRepo(path string) (string, bool) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(path, "/models/"), "/"), "/")
	if len(parts) < 2 {
		return "", false
	}
	repo := parts[0] + "/" + parts[1]
	if len(parts) >= 4 && (parts[2] == "tree" || parts[2] == "blob" || parts[2] == "resolve") {
		repo += "@" + parts[3]
	}
	return repo, true
}

// validName accepts letters, digits, dot, dash and underscore, beginning with a letter or digit: such a name is also
// safe as the name of a folder.
func validName(s string) bool {
	for i, c := range s {
		letter := unicode.IsLetter(c) || unicode.IsDigit(c)
		if !letter && (i == 0 || !strings.ContainsRune("._-", c)) {
			return false
		}
	}
	return s != "" && len(s) <= 200 && !strings.Contains(s, "..")
}

// validRevision accepts what git accepts as a branch, tag or commit, less its exotic characters.
func validRevision(s string) bool {
	for _, part := range strings.Split(s, "/") {
		if !validName(part) {
			return false
		}
	}
	return true
}
