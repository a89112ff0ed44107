package hub

import (
	"regexp"
	"strings"
)

// defaultExclude is left out where the caller includes nothing in particular: Meta's own format holds the same
// weights once more, and the repository's git files are of no use in a folder.
var defaultExclude = []string{"original/*", "*.pth", ".gitattributes", ".gitignore"}

// filter decides which files of a repository are wanted.
type filter struct{ include, exclude []*regexp.Regexp }

func newFilter(include, exclude []string) (*filter, error) {
	if len(include) == 0 {
		exclude = append(append([]string(nil), exclude...), defaultExclude...)
	}
	f := new(filter)
	for _, set := range []struct {
		globs []string
		to    *[]*regexp.Regexp
	}{{include, &f.include}, {exclude, &f.exclude}} {
		for _, g := range set.globs {
			re, err := compileGlob(g)
			if err != nil {
				return nil, fail(ErrPattern, err, "pattern %[1]q: %[2]v", "通配符 %[1]q 有误：%[2]v", g, err)
			}
			*set.to = append(*set.to, re)
		}
	}
	return f, nil
}

func (f *filter) wants(path string) bool {
	return (len(f.include) == 0 || anyMatch(f.include, path)) && !anyMatch(f.exclude, path)
}

func anyMatch(res []*regexp.Regexp, path string) bool {
	for _, re := range res {
		if re.MatchString(path) {
			return true
		}
	}
	return false
}

// compileGlob translates a pattern of Python's fnmatch, which both hubs' clients use: * and ? also match slashes,
// [abc] and [!abc] are sets, an unclosed bracket is itself. "folder/" means "folder/*".
func compileGlob(glob string) (*regexp.Regexp, error) {
	if strings.HasSuffix(glob, "/") {
		glob += "*"
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		case '[':
			// A bracket right after the opening one (or its !) is a member of the set.
			from := i + 1
			if from < len(glob) && glob[from] == '!' {
				from++
			}
			if from < len(glob) && glob[from] == ']' {
				from++
			}
			n := strings.IndexByte(glob[min(from, len(glob)):], ']')
			if n < 0 {
				b.WriteString(`\[`)
				continue
			}
			set := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `&`, `\&`, `~`, `\~`).Replace(glob[i+1 : from+n])
			if after, not := strings.CutPrefix(set, "!"); not {
				set = "^" + after
			}
			b.WriteString("[" + set + "]")
			i = from + n
		default:
			j := i
			for j < len(glob) && !strings.ContainsRune("*?[", rune(glob[j])) {
				j++
			}
			b.WriteString(regexp.QuoteMeta(glob[i:j]))
			i = j - 1
		}
	}
	b.WriteString(`\z`)
	return regexp.Compile(b.String())
}
