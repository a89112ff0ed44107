package hub

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Find returns the folder of a complete checkpoint of ref on this machine: chulengo's own downloads first, then the
// caches of ModelScope's and Hugging Face's clients, of both hubs if ref names none. Folders whose shards are not all
// there are passed over; if nothing else is found the error (ErrIncomplete, otherwise ErrNotFound) names them.
func Find(ref Ref) (string, error) {
	if ref.Org == "" || ref.Name == "" {
		return "", fail(ErrBadRef, nil, "empty model reference", "模型引用为空")
	}
	var en, zh []string
	for _, dir := range candidates(ref) {
		err := Complete(dir)
		if err == nil {
			return dir, nil
		}
		if e := (*Error)(nil); errors.As(err, &e) && errors.Is(err, ErrIncomplete) {
			en, zh = append(en, e.en), append(zh, e.zh)
		}
	}
	if en != nil {
		return "", fail(ErrIncomplete, nil,
			"%[1]s is here, but not complete:\n  %[2]s\ncomplete it with: chulengo pull %[4]s",
			"%[1]s 已在本机，但不完整：\n  %[3]s\n请补全：chulengo pull %[4]s",
			ref, strings.Join(en, "\n  "), strings.Join(zh, "\n  "), pullable(ref))
	}
	return "", fail(ErrNotFound, nil,
		"%[1]s is neither in chulengo's downloads nor in the caches of ModelScope (%[2]s) and Hugging Face (%[3]s); download it with: chulengo pull %[4]s",
		"在 chulengo 的下载目录、ModelScope 缓存（%[2]s）和 Hugging Face 缓存（%[3]s）中都没有找到 %[1]s；请下载：chulengo pull %[4]s",
		ref, msCache(), hfCache(), pullable(ref))
}

// pullable returns ref with a hub, guessed if need be, for a command to suggest.
func pullable(ref Ref) string {
	if ref.Hub == "" {
		ref.Hub = ModelScope
		if ref.Org == "meta-llama" {
			ref.Org = "LLM-Research" // Meta's models on ModelScope, not gated
		}
	}
	return ref.String()
}

// Complete reports whether dir holds a checkpoint whose weights are all there: config.json, and the shards that
// model.safetensors.index.json names or a single model.safetensors. The error is ErrNotFound if dir does not exist or
// is empty, ErrIncomplete otherwise.
func Complete(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return fail(ErrNotFound, err, "%[1]s: no such folder, or an empty one", "%[1]s：目录不存在或为空", dir)
	}
	missing := func(names ...string) error {
		const few = 3
		list := strings.Join(names[:min(few, len(names))], ", ")
		if len(names) > few {
			return fail(ErrIncomplete, nil, "%[1]s: %[2]d files are missing: %[3]s, …", "%[1]s：缺少 %[2]d 个文件：%[3]s 等", dir, len(names), list)
		}
		return fail(ErrIncomplete, nil, "%[1]s: missing %[2]s", "%[1]s：缺少 %[2]s", dir, list)
	}
	if !hasBytes(filepath.Join(dir, "config.json")) {
		return missing("config.json")
	}
	const index = "model.safetensors.index.json"
	data, err := os.ReadFile(filepath.Join(dir, index))
	if errors.Is(err, fs.ErrNotExist) {
		if !hasBytes(filepath.Join(dir, "model.safetensors")) {
			return missing("model.safetensors or " + index)
		}
		return nil
	}
	var parsed struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err == nil {
		err = json.Unmarshal(data, &parsed)
	}
	if err != nil || len(parsed.WeightMap) == 0 {
		return fail(ErrIncomplete, err, "%[1]s: %[2]s is unreadable", "%[1]s：%[2]s 无法读取", dir, index)
	}
	var absent []string
	seen := make(map[string]bool)
	for _, shard := range parsed.WeightMap {
		if !seen[shard] && (!filepath.IsLocal(shard) || !hasBytes(filepath.Join(dir, filepath.FromSlash(shard)))) {
			absent = append(absent, shard)
		}
		seen[shard] = true
	}
	if absent != nil {
		slices.Sort(absent)
		return missing(absent...)
	}
	return nil
}

// hasBytes follows symbolic links: the snapshots of Hugging Face's cache are links to blobs, dangling while a blob is
// on its way.
func hasBytes(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// candidates lists the folders that may hold ref, best first.
func candidates(ref Ref) []string {
	var dirs []string
	for _, h := range []Hub{ModelScope, HuggingFace} {
		if ref.Hub == "" || ref.Hub == h {
			own := ref
			own.Hub = h
			if dir, err := DefaultDir(own); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	if ref.Hub != HuggingFace {
		dirs = append(dirs, msCandidates(ref)...)
	}
	if ref.Hub != ModelScope {
		dirs = append(dirs, hfCandidates(ref)...)
	}
	return dirs
}

// msCandidates knows the layouts of ModelScope's client: <root>/models/ORG/NAME with <root> the variable or
// ~/.cache/modelscope/hub, <root>/ORG/NAME before 1.20, <root>/models/ORG--NAME/snapshots/REVISION since 1.38. Dots
// in names are stored as ___, and linked under the true name by some versions.
func msCandidates(ref Ref) []string {
	masked := strings.ReplaceAll(ref.Name, ".", "___")
	var dirs []string
	for _, root := range []string{msCache(), filepath.Join(msCache(), "hub")} {
		for _, parent := range []string{filepath.Join(root, "models"), root} {
			// These layouts do not record the revision, so they answer only for the default one.
			if ref.Revision == "" || ref.Revision == ModelScope.defaultRevision() {
				dirs = append(dirs, filepath.Join(parent, ref.Org, masked))
				if masked != ref.Name {
					dirs = append(dirs, filepath.Join(parent, ref.Org, ref.Name), filepath.Join(parent, strings.ReplaceAll(ref.Org, ".", "___"), masked))
				}
			}
		}
		snapshots := filepath.Join(root, "models", ref.Org+"--"+ref.Name, "snapshots")
		if ref.Revision != "" {
			dirs = append(dirs, filepath.Join(snapshots, filepath.FromSlash(ref.Revision)))
			continue
		}
		dirs = append(dirs, filepath.Join(snapshots, ModelScope.defaultRevision()))
		dirs = append(dirs, newestFirst(snapshots)...)
	}
	return dirs
}

// hfCandidates knows the layout models--ORG--NAME/{refs/REVISION → commit, snapshots/COMMIT}. Without a revision, main
// comes first, then the other snapshots, newest first.
func hfCandidates(ref Ref) []string {
	root := hfRepoDir(ref)
	snapshots := filepath.Join(root, "snapshots")
	rev := ref.Revision
	if rev == "" {
		rev = HuggingFace.defaultRevision()
	}
	var dirs []string
	if commit, err := os.ReadFile(filepath.Join(root, "refs", filepath.FromSlash(rev))); err == nil {
		if name := strings.TrimSpace(string(commit)); validName(name) {
			dirs = append(dirs, filepath.Join(snapshots, name))
		}
	}
	for _, dir := range newestFirst(snapshots) {
		// A revision may be a commit, possibly abbreviated.
		if ref.Revision == "" || len(ref.Revision) >= 7 && strings.HasPrefix(filepath.Base(dir), ref.Revision) {
			dirs = append(dirs, dir)
		}
	}
	return slices.Compact(dirs)
}

func hfRepoDir(ref Ref) string {
	return filepath.Join(hfCache(), "models--"+ref.Org+"--"+ref.Name)
}

// newestFirst lists the folders in dir by falling modification time.
func newestFirst(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	type aged struct {
		path string
		unix int64
	}
	var found []aged
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() {
			found = append(found, aged{filepath.Join(dir, e.Name()), info.ModTime().UnixNano()})
		}
	}
	slices.SortStableFunc(found, func(a, b aged) int { return int(min(1, max(-1, b.unix-a.unix))) })
	paths := make([]string, len(found))
	for i, f := range found {
		paths[i] = f.path
	}
	return paths
}

// cachedFile returns the path under which the hub's Python client keeps file, or "". Only the size is compared here.
func cachedFile(ref Ref, file remoteFile) string {
	var paths []string
	if ref.Hub == HuggingFace {
		if file.digest.hex != "" {
			paths = append(paths, filepath.Join(hfRepoDir(ref), "blobs", file.digest.hex)) // blobs are named by digest
		}
		for _, dir := range hfCandidates(ref) {
			paths = append(paths, filepath.Join(dir, filepath.FromSlash(file.path)))
		}
	} else {
		for _, dir := range msCandidates(ref) {
			paths = append(paths, filepath.Join(dir, filepath.FromSlash(file.path)))
		}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() == file.size {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				return real
			}
		}
	}
	return ""
}
