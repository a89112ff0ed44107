package hub

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// Options of Pull. The zero value is ready for use.
type Options struct {
	Dir         string   // destination; "": DefaultDir
	Include     []string // globs of the files wanted; empty: all but original/* and *.pth
	Exclude     []string // globs of files not wanted, applied last
	Files       int      // files in work at a time; 0: 4
	Connections int      // connections at a time; 0: 8
	Rehash      bool     // read files that are already there even if hashes.json vouches for them
	Progress    Progress // nil: none

	// For tests.
	tuning *tuning
	free   func(dir string) (int64, error)
}

// Pull downloads the files of ref that are not yet in the folder, verifies all of them, and returns the folder. ref
// must name a hub. On any error, and when ctx ends, what has arrived stays for the next Pull.
func Pull(ctx context.Context, ref Ref, o Options) (dir string, err error) {
	if ref.Hub == "" {
		return "", fail(ErrBadRef, nil, "%[1]s: which hub? write ms://%[1]s (ModelScope) or hf://%[1]s (Hugging Face)",
			"%[1]s：从哪里下载？请写 ms://%[1]s（ModelScope）或 hf://%[1]s（Hugging Face）", ref)
	}
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fail(ErrStopped, ctx.Err(), "%[1]s: stopped; run the same command again: it continues where it was",
				"%[1]s：已停止；重新运行同一命令即可从断点继续", ref)
		}
	}()
	p, err := newPull(ref, o)
	if err != nil {
		return "", err
	}
	if ref.Hub == HuggingFace && hfOffline() {
		return p.offline()
	}
	all, err := p.client.list(ctx, ref)
	if err != nil {
		return "", err
	}
	var files []remoteFile
	var bytes int64
	for _, f := range all {
		if p.filter.wants(f.path) {
			files = append(files, f)
			bytes += f.size
		}
	}
	if len(files) == 0 {
		return "", fail(ErrNotFound, nil, "%[1]s: none of its %[2]d files is wanted; check the revision and the include and exclude patterns",
			"%[1]s：%[2]d 个文件中没有一个符合要求；请检查版本以及 --include 和 --exclude", ref, len(all))
	}
	if p.folder, err = openFolder(p.dir); err != nil {
		return "", err
	}
	defer p.folder.Close()
	p.o.Progress.Plan(len(files), bytes)
	return p.dir, p.bring(ctx, files)
}

// pull is one call of Pull.
type pull struct {
	ref    Ref
	o      Options // defaults filled in
	tune   tuning
	filter *filter
	dir    string
	client *client
	folder *folder
	conns  *semaphore.Weighted
}

func newPull(ref Ref, o Options) (*pull, error) {
	p := &pull{ref: ref, o: o, dir: o.Dir, tune: defaultTuning}
	if o.tuning != nil {
		p.tune = *o.tuning
	}
	if o.Files <= 0 {
		p.o.Files = 4
	}
	if o.Connections <= 0 {
		p.o.Connections = 8
	}
	if o.Progress == nil {
		p.o.Progress = noProgress{}
	}
	if o.free == nil {
		p.o.free = freeSpace
	}
	var err error
	if p.filter, err = newFilter(o.Include, o.Exclude); err != nil {
		return nil, err
	}
	if p.dir == "" {
		if p.dir, err = DefaultDir(ref); err != nil {
			return nil, err
		}
	}
	p.client = newClient(siteOf(ref.Hub), p.tune.pause)
	p.conns = semaphore.NewWeighted(int64(p.o.Connections))
	return p, nil
}

// offline answers with what is there.
func (p *pull) offline() (string, error) {
	dir, err := p.dir, Complete(p.dir)
	if err != nil && p.o.Dir == "" {
		dir, err = Find(p.ref)
	}
	if err != nil {
		return "", fail(ErrOffline, err, "%[1]s: HF_HUB_OFFLINE is set, and no complete copy is on this machine; unset it to download",
			"%[1]s：已设置 HF_HUB_OFFLINE，而本机没有完整的副本；取消该变量后才能下载", p.ref)
	}
	return dir, nil
}

// bring sees to it that all files are in the folder: first what needs no network, then the check for space, then the
// network.
func (p *pull) bring(ctx context.Context, files []remoteFile) error {
	missing := make([]bool, len(files))  // parallel to files
	copies := make([]string, len(files)) // verified files of another cache that could not be linked
	group, here := errgroup.WithContext(ctx)
	group.SetLimit(min(2, p.o.Files)) // two streams saturate most disks
	for i, f := range files {
		group.Go(func() (err error) {
			missing[i], copies[i], err = p.reuse(here, f)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := p.checkSpace(files, missing); err != nil {
		return err
	}
	group, here = errgroup.WithContext(ctx)
	group.SetLimit(p.o.Files)
	for i, f := range files {
		if !missing[i] {
			continue
		}
		group.Go(func() error {
			if copies[i] != "" {
				return p.copyIn(here, f, copies[i])
			}
			t := &transfer{client: p.client, folder: p.folder, ref: p.ref, want: f, conns: p.conns, report: p.reporter(f), tune: p.tune}
			return t.run(here)
		})
	}
	return group.Wait()
}

func (p *pull) reporter(f remoteFile) *reporter {
	return &reporter{to: p.o.Progress, name: f.path, total: f.size}
}

// reuse keeps the file that is there, or links it in from the cache of the hub's Python client. missing is true if
// neither was possible; source is then a verified copy on another file system, if there is one.
func (p *pull) reuse(ctx context.Context, f remoteFile) (missing bool, source string, err error) {
	r := p.reporter(f)
	checking := func(done int64) { r.report(Checking, done) }
	ok, err := p.folder.known(ctx, f, p.o.Rehash, checking)
	if err != nil {
		return true, "", err
	}
	if ok {
		r.report(Done, f.size)
		return false, "", nil
	}
	cached := cachedFile(p.ref, f)
	if cached == "" || f.digest.hex == "" {
		return true, "", nil
	}
	got, err := hashFile(ctx, cached, f.digest.algo, checking)
	if err != nil || got != f.digest {
		return true, "", ctx.Err() // a cache that cannot be read is no reason to fail
	}
	if err := p.folder.makeParents(f.path); err != nil {
		return true, "", err
	}
	part := partName(f.path)
	if err := p.folder.root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, "", diskError(err, p.dir, f.path)
	}
	if os.Link(cached, filepath.Join(p.dir, filepath.FromSlash(part))) != nil {
		return true, cached, nil
	}
	if err := p.folder.install(f); err != nil {
		return true, "", err
	}
	r.report(Done, f.size)
	return false, "", nil
}

// copyIn copies a verified file from another file system.
func (p *pull) copyIn(ctx context.Context, f remoteFile, source string) error {
	r := p.reporter(f)
	in, err := os.Open(source)
	if err != nil {
		return diskError(err, p.dir, source)
	}
	defer in.Close()
	out, err := p.folder.root.OpenFile(partName(f.path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return diskError(err, p.dir, f.path)
	}
	defer out.Close()
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := io.CopyN(out, in, 16<<20)
		done += n
		r.report(Downloading, done)
		if err == io.EOF && done == f.size {
			break
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return diskError(err, p.dir, f.path)
		}
	}
	if err := out.Sync(); err != nil {
		return diskError(err, p.dir, f.path)
	}
	if err := out.Close(); err != nil {
		return diskError(err, p.dir, f.path)
	}
	if err := p.folder.install(f); err != nil {
		return err
	}
	r.report(Done, f.size)
	return nil
}

// checkSpace fails if what is missing does not fit on the disk.
func (p *pull) checkSpace(files []remoteFile, missing []bool) error {
	var need int64
	for i, f := range files {
		if missing[i] {
			need += needed(p.folder, f)
		}
	}
	if need == 0 {
		return nil
	}
	free, err := p.o.free(p.dir)
	if err != nil {
		return diskError(err, p.dir, ".")
	}
	if need > free {
		return fail(ErrNoSpace, nil, "%[1]s: not enough disk space in %[2]s: %[3]s more needed, %[4]s free; free some space or choose another folder with --dir",
			"%[1]s：%[2]s 所在磁盘空间不足：还需要 %[3]s，仅剩 %[4]s；请腾出空间，或用 --dir 指定其他目录", p.ref, p.dir, size(need), size(free))
	}
	return nil
}
