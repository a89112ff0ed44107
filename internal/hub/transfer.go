package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// transfer brings one file over the network into its part, verifies it and installs it.
type transfer struct {
	client *client
	folder *folder
	ref    Ref
	want   remoteFile
	conns  *semaphore.Weighted // connections of the whole pull
	report *reporter
	tune   tuning

	file *os.File

	mu         sync.Mutex // guards the rest
	state      partState
	saved      time.Time
	sequential bool   // the server ignores Range: one connection, always from the start
	ignoreETag bool   // ETags differ from answer to answer; the digest decides alone
	seenETag   string // of the latest answer, without W/ and quotes
}

// partState says what of a part has arrived. It is written after the bytes that it counts, so that a killed process
// leaves a state that is true or behind.
type partState struct {
	Size    int64   `json:"size"`
	Digest  string  `json:"digest"`
	ETag    string  `json:"etag"`    // of the answers the bytes came from, verbatim; "" unknown
	Segment int64   `json:"segment"` // bytes of a segment; the last may be shorter
	Done    []int64 `json:"done"`    // bytes of each segment, from its start
}

var (
	errChanged  = errors.New("the file changed on the server")
	errNoRanges = errors.New("the server does not serve ranges")
	errStalled  = errors.New("no bytes for too long")
)

// restarts is how often a transfer begins anew because the content changed under it, or came out wrong.
const restarts = 2

// run returns nil when the file is in place.
func (t *transfer) run(ctx context.Context) error {
	if err := t.folder.makeParents(t.want.path); err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	defer func() { t.file.Close() }()
	changes, wrong := 0, 0
	for {
		err := t.fetchAll(ctx)
		if err == nil {
			var got digest
			if got, err = t.verify(ctx); err == nil && got == t.want.digest {
				return t.finish()
			}
			if err == nil {
				if wrong++; wrong == restarts {
					err = corruptError(t.ref, t.want.path, t.want.digest.String(), got.String())
				}
			}
		}
		switch {
		case errors.Is(err, errNoRanges) && !t.sequential:
			t.sequential = true
		case errors.Is(err, errChanged):
			if changes++; changes > restarts {
				return fail(ErrProtocol, err, "%[1]s: %[2]s keeps changing on the server; run the same command again later",
					"%[1]s：%[2]s 在服务器上不断变化；请稍后重新运行同一命令", t.ref, t.want.path)
			}
			t.ignoreETag = changes == restarts && t.want.digest.hex != ""
		case errors.Is(err, ErrCorrupt):
			// What is there is worthless: the next run must not resume it.
			if resetErr := t.reset(); resetErr != nil {
				return resetErr
			}
			return err
		case err != nil:
			return err
		}
		if err := t.reset(); err != nil {
			return err
		}
	}
}

// open opens the part, and takes up its state if that fits the listing.
func (t *transfer) open() error {
	name := partName(t.want.path)
	var err error
	if t.file, err = t.folder.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return diskError(err, t.folder.dir, t.want.path)
	}
	data, err := t.folder.root.ReadFile(name + ".json")
	if err == nil && json.Unmarshal(data, &t.state) == nil && t.usable() {
		t.seenETag = trimETag(t.state.ETag)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.file.Close()
		return diskError(err, t.folder.dir, t.want.path)
	}
	if err := t.reset(); err != nil {
		t.file.Close()
		return err
	}
	return nil
}

// usable reports whether the state that was read belongs to the file wanted and is consistent with the part.
func (t *transfer) usable() bool {
	s := &t.state
	if s.Size != t.want.size || s.Digest != t.want.digest.String() || s.Segment <= 0 || len(s.Done) != segments(s.Size, s.Segment) {
		return false
	}
	if s.ETag == "" && s.Digest == "" {
		return false // nothing would tell whether the rest belongs to the same content
	}
	info, err := t.file.Stat()
	if err != nil || info.Size() != s.Size {
		return false
	}
	for i, done := range s.Done {
		if start, end := t.bounds(i); done < 0 || done > end-start {
			return false
		}
	}
	return true
}

func segments(size, segment int64) int { return int((size + segment - 1) / segment) }

// bounds returns the byte range [start, end) of segment i.
func (t *transfer) bounds(i int) (start, end int64) {
	start = int64(i) * t.state.Segment
	return start, min(start+t.state.Segment, t.state.Size)
}

// reset forgets what has arrived.
func (t *transfer) reset() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	segment := t.tune.segment
	if t.sequential || t.want.size < 2*segment {
		segment = max(t.want.size, 1)
	}
	t.state = partState{Size: t.want.size, Digest: t.want.digest.String(), Segment: segment, Done: make([]int64, segments(t.want.size, segment))}
	if err := t.save(true); err != nil {
		return err
	}
	// Sparse: the whole length at once, so that segments can be written in any order.
	for _, length := range []int64{0, t.want.size} {
		if err := t.file.Truncate(length); err != nil {
			return diskError(err, t.folder.dir, t.want.path)
		}
	}
	return nil
}

// save writes the state, unless that was done a moment ago. t.mu is held.
func (t *transfer) save(now bool) error {
	if !now && time.Since(t.saved) < time.Second {
		return nil
	}
	t.saved = time.Now()
	return t.folder.writeJSON(partName(t.want.path)+".json", &t.state)
}

func (t *transfer) arrived() int64 {
	var sum int64
	for _, n := range t.state.Done {
		sum += n
	}
	return sum
}

// fetchAll brings all segments that are not complete, several at a time.
func (t *transfer) fetchAll(ctx context.Context) (err error) {
	t.report.report(Downloading, t.arrived())
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if saveErr := t.save(true); err == nil {
			err = saveErr
		}
	}()
	if len(t.state.Done) > 1 && t.state.ETag == "" && t.arrived() == 0 {
		// One byte tells whether ranges are served, and the ETag that all segments have to share.
		if err := t.probe(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.tune.perFile)
	for i := range t.state.Done {
		group.Go(func() error { return t.fetch(ctx, i) })
	}
	return group.Wait()
}

// probe asks for the first byte.
func (t *transfer) probe(ctx context.Context) error {
	if err := t.conns.Acquire(ctx, 1); err != nil {
		return err
	}
	defer t.conns.Release(1)
	resp, err := t.client.get(ctx, t.ref, t.client.fileURL(t.ref, t.want.path), http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := t.check(resp, 0, false); err != nil {
		return err
	}
	// A body read to its end leaves the connection for the next request; whether it breaks, the segments will find out.
	io.CopyN(io.Discard, resp.Body, 1)
	return nil
}

// fetch brings segment i. A try that brought bytes makes up for all failures before it.
func (t *transfer) fetch(ctx context.Context, i int) error {
	start, end := t.bounds(i)
	t.mu.Lock()
	best := t.state.Done[i]
	t.mu.Unlock()
	for failures := 0; start+best < end; {
		done, err := t.try(ctx, i)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if done > best {
			best, failures = done, 0
		}
		if err == nil {
			continue
		}
		if !transient(err) {
			return err
		}
		if failures++; failures > retries {
			return fail(ErrNetwork, err, "%[1]s: %[2]s: gave up after %[3]d tries without progress: %[4]v; run the same command again: it continues where it was",
				"%[1]s：%[2]s：连续 %[3]d 次尝试没有进展，已放弃：%[4]v；请重新运行同一命令，将从断点继续", t.ref, t.want.path, failures, reason(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(t.tune.pause << (failures - 1)):
		}
	}
	return nil
}

// transientError marks failures of a single try: another one may succeed.
type transientError struct{ err error }

func (e *transientError) Error() string { return e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }

// transient reports whether err is of a single try. So is an outage of the network, and a content delivery network's
// refusal: signed addresses run out, and the next try gets a new one from the hub. Where the hub asked to wait, get
// has waited already.
func transient(err error) bool {
	var mark *transientError
	var status *statusCode
	if errors.As(err, &status) && (status.code == http.StatusTooManyRequests || status.code == http.StatusServiceUnavailable) {
		return false
	}
	return errors.As(err, &mark) || errors.Is(err, ErrNetwork)
}

// reason returns the text of the innermost mark, without prefixes of ours.
func reason(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.en
	}
	return err.Error()
}

// try opens one connection for the rest of segment i and returns how much of the segment is there afterwards.
func (t *transfer) try(ctx context.Context, i int) (done int64, err error) {
	if err := t.conns.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer t.conns.Release(1)

	t.mu.Lock()
	if t.sequential {
		t.state.Done[i] = 0
	}
	done = t.state.Done[i]
	etag := t.state.ETag
	t.mu.Unlock()
	start, end := t.bounds(i)
	header := make(http.Header)
	ranged := start+done > 0 || end < t.want.size
	if ranged {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", start+done, end-1))
		if strings.HasPrefix(etag, `"`) && !t.ignoreETag { // weak ones are not allowed here
			header.Set("If-Range", etag)
		}
	}
	// The body may stall for ever: the timer is wound up again with every read.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := t.client.get(ctx, t.ref, t.client.fileURL(t.ref, t.want.path), header)
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	if err := t.check(resp, start+done, !ranged); err != nil {
		return done, err
	}
	watch := time.AfterFunc(t.tune.stall, func() { cancel(errStalled) })
	defer watch.Stop()
	buf := make([]byte, 256<<10)
	for start+done < end {
		n, err := resp.Body.Read(buf[:min(int64(len(buf)), end-start-done)])
		watch.Reset(t.tune.stall)
		if n > 0 {
			if _, err := t.file.WriteAt(buf[:n], start+done); err != nil {
				return done, diskError(err, t.folder.dir, t.want.path)
			}
			done += int64(n)
			if err := t.advance(i, done); err != nil {
				return done, err
			}
		}
		if err == io.EOF && start+done < end {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
				err = cause
			}
			return done, &transientError{err}
		}
	}
	return done, nil
}

// advance records that done bytes of segment i are in the part.
func (t *transfer) advance(i int, done int64) error {
	t.mu.Lock()
	t.state.Done[i] = done
	arrived := t.arrived()
	err := t.save(false)
	t.mu.Unlock()
	t.report.report(Downloading, arrived)
	return err
}

// check decides whether the answer's body is what the file has at offset from. whole: the request had no Range.
func (t *transfer) check(resp *http.Response, from int64, whole bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	etag := resp.Header.Get("ETag")
	known := t.state.ETag
	differs := etag != "" && known != "" && etag != known && !t.ignoreETag
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return errChanged
	case resp.StatusCode == http.StatusPartialContent && !whole:
		var first, last, total int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total); err != nil {
			total = t.want.size // "*": the server does not say
			if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/*", &first, &last); err != nil {
				first = -1
			}
		}
		if differs {
			return errChanged
		}
		if first != from {
			return fail(ErrProtocol, nil, "%[1]s: %[2]s: asked for bytes from %[3]d, got Content-Range %[4]q",
				"%[1]s：%[2]s：请求从第 %[3]d 字节开始，服务器返回 Content-Range %[4]q", t.ref, t.want.path, from, resp.Header.Get("Content-Range"))
		}
		if total != t.want.size {
			return t.sizeError(total)
		}
	case resp.StatusCode == http.StatusOK:
		if !whole && differs {
			return errChanged
		}
		if !whole {
			return errNoRanges
		}
		if resp.ContentLength >= 0 && resp.ContentLength != t.want.size {
			return t.sizeError(resp.ContentLength)
		}
	default:
		return fail(ErrProtocol, nil, "%[1]s: %[2]s: unexpected status %[3]d", "%[1]s：%[2]s：意外的状态码 %[3]d", t.ref, t.want.path, resp.StatusCode)
	}
	if known == "" || whole {
		t.state.ETag = etag
	}
	t.seenETag = contentID(resp)
	return nil
}

// sizeError: the server's file is not as long as the listing says. It may be a truncated copy on one of several
// servers, so other tries follow.
func (t *transfer) sizeError(got int64) error {
	return &transientError{fail(ErrCorrupt, nil, "%[1]s: %[2]s: want %[3]d bytes, the server has %[4]d", "%[1]s：%[2]s：应有 %[3]d 字节，服务器上为 %[4]d 字节",
		t.ref, t.want.path, t.want.size, got)}
}

// contentID returns the ETag by which Hugging Face names the content, here or before a redirect.
func contentID(resp *http.Response) string {
	for r := resp; r != nil; r = r.Request.Response {
		if id := r.Header.Get("X-Linked-Etag"); id != "" {
			return trimETag(id)
		}
	}
	return trimETag(resp.Header.Get("ETag"))
}

func trimETag(s string) string { return strings.Trim(strings.TrimPrefix(s, "W/"), `"`) }

// verify reads the part and returns its digest, or the one wanted where there is nothing to compare.
func (t *transfer) verify(ctx context.Context) (digest, error) {
	want := t.want.digest
	if want.hex == "" || want.algo == "git" && t.seenETag != want.hex {
		return want, nil
	}
	name := filepath.Join(t.folder.dir, filepath.FromSlash(partName(t.want.path)))
	got, err := hashFile(ctx, name, want.algo, func(done int64) { t.report.report(Verifying, done) })
	if err != nil && ctx.Err() == nil {
		err = diskError(err, t.folder.dir, t.want.path)
	}
	return got, err
}

// finish makes the bytes durable before the name says that they are all there.
func (t *transfer) finish() error {
	if err := t.file.Sync(); err != nil {
		return diskError(err, t.folder.dir, t.want.path)
	}
	if err := t.file.Close(); err != nil {
		return diskError(err, t.folder.dir, t.want.path)
	}
	if err := t.folder.install(t.want); err != nil {
		return err
	}
	t.report.report(Done, t.want.size)
	return nil
}

// tuning holds the numbers that tests make small.
type tuning struct {
	segment int64         // bytes; files of twice as many or more are split
	perFile int           // segments of one file at a time
	pause   time.Duration // before the first repetition; doubled for each further one
	stall   time.Duration // the longest silence of a connection
}

var defaultTuning = tuning{segment: 128 << 20, perFile: 4, pause: 500 * time.Millisecond, stall: stall}

// needed returns the bytes that the file still needs on disk: its size less what an earlier run left in its part.
func needed(f *folder, want remoteFile) int64 {
	data, err := f.root.ReadFile(partName(want.path) + ".json")
	var s partState
	if err != nil || json.Unmarshal(data, &s) != nil || s.Size != want.size || s.Digest != want.digest.String() {
		return want.size
	}
	rest := want.size
	for _, n := range s.Done {
		rest -= n
	}
	return max(rest, 0)
}
