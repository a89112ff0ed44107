package hub

import (
	"os"
	"path/filepath"
	"strings"
)

// site is where a hub is reached, and as whom.
type site struct {
	hub      Hub
	endpoint string // scheme, host and possibly a path, without a trailing slash
	token    string // empty: anonymous
}

// siteOf reads the environment variables of the hub's own client.
func siteOf(h Hub) site {
	s := site{hub: h}
	if h == ModelScope {
		s.endpoint = firstEnv("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN")
		if s.endpoint == "" {
			s.endpoint = "https://www.modelscope.cn"
		}
		s.token = firstEnv("MODELSCOPE_API_TOKEN", "MODELSCOPE_SDK_TOKEN")
	} else {
		s.endpoint = firstEnv("HF_ENDPOINT")
		if s.endpoint == "" {
			s.endpoint = "https://huggingface.co"
		}
		s.token = hfToken()
	}
	if !strings.Contains(s.endpoint, "://") {
		s.endpoint = "https://" + s.endpoint // MODELSCOPE_DOMAIN is a bare host
	}
	s.endpoint = strings.TrimRight(s.endpoint, "/")
	return s
}

func hfToken() string {
	if truth(os.Getenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		return ""
	}
	if t := firstEnv("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"); t != "" {
		return t
	}
	path := expand(os.Getenv("HF_TOKEN_PATH"))
	if path == "" {
		path = filepath.Join(hfHome(), "token")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "" // not logged in
	}
	return strings.TrimSpace(string(data))
}

func hfOffline() bool {
	return truth(firstEnv("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
}

func hfHome() string {
	if dir := expand(os.Getenv("HF_HOME")); dir != "" {
		return dir
	}
	if dir := expand(os.Getenv("XDG_CACHE_HOME")); dir != "" {
		return filepath.Join(dir, "huggingface")
	}
	return filepath.Join(homeDir(), ".cache", "huggingface")
}

// hfCache is the folder of models--ORG--NAME folders.
func hfCache() string {
	if dir := expand(firstEnv("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")); dir != "" {
		return dir
	}
	return filepath.Join(hfHome(), "hub")
}

// msCache is the root under which the versions of ModelScope's client laid out their caches.
func msCache() string {
	if dir := expand(os.Getenv("MODELSCOPE_CACHE")); dir != "" {
		return dir
	}
	return filepath.Join(homeDir(), ".cache", "modelscope")
}

// DefaultDir returns the folder that Pull writes ref to when none is chosen. ref must name a hub.
func DefaultDir(ref Ref) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fail(ErrDisk, err,
			"no cache folder for this user (%[1]v); choose a folder with --dir", "找不到该用户的缓存目录（%[1]v）；请用 --dir 指定目录", err)
	}
	name := ref.Name
	if ref.Revision != "" && ref.Revision != ref.Hub.defaultRevision() {
		name += "@" + strings.ReplaceAll(ref.Revision, "/", "--")
	}
	return filepath.Join(cache, "chulengo", "hub", string(ref.Hub), ref.Org, name), nil
}

// firstEnv returns the first of the variables that is set to more than blanks.
func firstEnv(names ...string) string {
	for _, name := range names {
		if v := strings.TrimSpace(os.Getenv(name)); v != "" {
			return v
		}
	}
	return ""
}

// truth reads a boolean variable as huggingface_hub does.
func truth(s string) bool {
	switch strings.ToUpper(s) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

// expand replaces variables and a leading ~ in a path from the environment.
func expand(path string) string {
	path = os.ExpandEnv(path)
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		path = filepath.Join(homeDir(), rest)
	}
	return path
}

// homeDir returns the user's home folder, or the working folder where there is none (some containers).
func homeDir() string {
	if dir, err := os.UserHomeDir(); err == nil {
		return dir
	}
	return "."
}
