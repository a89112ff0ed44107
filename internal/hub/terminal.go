package hub

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Terminal shows a pull to a person: bars of the files in work above a bar of the whole on a terminal, a plain line
// every few seconds elsewhere (log files, pipes).
type Terminal struct {
	out     io.Writer
	chinese bool
	bars    *mpb.Progress // nil: plain lines
	quit    chan struct{}
	stopped chan struct{}

	barMu sync.Mutex // guards whole and files, and is held while bars are made: mpb may be drawing then, which takes mu
	whole *mpb.Bar
	files map[string]*mpb.Bar

	mu    sync.Mutex // guards tally; nothing of mpb is called under it
	tally tally
}

// NewTerminal begins to show. tty says whether out is a terminal, lang which language to use (see Error.Localized).
// Close ends it.
func NewTerminal(out io.Writer, tty bool, lang string) *Terminal {
	t := &Terminal{out: out, chinese: chinese(lang), quit: make(chan struct{}), stopped: make(chan struct{}), files: make(map[string]*mpb.Bar)}
	t.tally = newTally(time.Now())
	every := 5 * time.Second
	if tty {
		every = time.Second
		t.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithAutoRefresh())
	}
	go t.watch(every)
	return t
}

// watch samples the speed and, without bars, writes the lines.
func (t *Terminal) watch(every time.Duration) {
	defer close(t.stopped)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-t.quit:
			return
		case now := <-tick.C:
			t.mu.Lock()
			t.tally.sample(now)
			line := t.tally.line(t.chinese)
			t.mu.Unlock()
			if t.bars == nil && line != "" {
				fmt.Fprintln(t.out, line)
			}
		}
	}
}

// Plan implements Progress.
func (t *Terminal) Plan(files int, bytes int64) {
	t.mu.Lock()
	t.tally.files, t.tally.bytes = files, bytes
	t.mu.Unlock()
	if t.bars == nil {
		return
	}
	t.barMu.Lock()
	defer t.barMu.Unlock()
	t.whole = t.bars.AddBar(max(bytes, 1), mpb.BarPriority(1<<30), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
		return t.line() + " "
	})))
}

// File implements Progress.
func (t *Terminal) File(name string, phase Phase, done, total int64) {
	t.mu.Lock()
	t.tally.file(name, phase, done, total)
	sum := t.tally.done
	t.mu.Unlock()
	if t.bars == nil {
		return
	}
	t.barMu.Lock()
	defer t.barMu.Unlock()
	bar := t.files[name]
	switch {
	case phase == Done && bar != nil:
		bar.Abort(true)
		delete(t.files, name)
	case phase != Done && bar == nil:
		bar = t.bars.AddBar(max(total, 1), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			t.mu.Lock()
			defer t.mu.Unlock()
			return t.tally.label(name, t.chinese)
		}, decor.WCSyncSpaceR)), mpb.AppendDecorators(decor.Percentage()))
		t.files[name] = bar
		fallthrough
	case phase != Done:
		bar.SetCurrent(min(done, max(total, 1)-1)) // full is for Done: a full bar would disappear
	}
	if t.whole != nil {
		t.whole.SetCurrent(sum)
	}
}

// Close removes the bars and writes a last line with the result so far.
func (t *Terminal) Close() {
	close(t.quit)
	<-t.stopped
	if t.bars != nil {
		t.barMu.Lock()
		if t.whole != nil {
			t.whole.Abort(true)
		}
		for _, bar := range t.files {
			bar.Abort(true)
		}
		t.barMu.Unlock()
		t.bars.Wait()
	}
	if line := t.line(); line != "" {
		fmt.Fprintln(t.out, line)
	}
}

func (t *Terminal) line() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tally.line(t.chinese)
}

// tally adds up what the reports say.
type tally struct {
	files, filesDone int
	bytes, done      int64 // of all files: wanted, there
	network          int64 // bytes that arrived since the start
	state            map[string]fileState
	samples          []sample // of the last quarter of a minute
}

type fileState struct {
	phase       Phase
	done, total int64
}

type sample struct {
	at      time.Time
	network int64
}

func newTally(now time.Time) tally {
	return tally{state: make(map[string]fileState), samples: []sample{{at: now}}}
}

func (y *tally) file(name string, phase Phase, done, total int64) {
	was, seen := y.state[name]
	counted := was.done
	if was.phase == Checking {
		counted = 0 // reading what was there is not getting it
	}
	switch phase {
	case Downloading:
		if seen && was.phase == Downloading && done > was.done {
			y.network += done - was.done // the first report counts what earlier runs left
		}
		y.done += done - counted
	case Verifying:
		y.done += total - counted
		done = total
	case Done:
		y.done += total - counted
		y.filesDone++
	}
	y.state[name] = fileState{phase, done, total}
}

func (y *tally) sample(now time.Time) {
	y.samples = append(y.samples, sample{now, y.network})
	for len(y.samples) > 2 && now.Sub(y.samples[0].at) > 15*time.Second {
		y.samples = y.samples[1:]
	}
}

// rate returns bytes a second over the samples kept.
func (y *tally) rate() float64 {
	first, last := y.samples[0], y.samples[len(y.samples)-1]
	if !last.at.After(first.at) {
		return 0
	}
	return float64(last.network-first.network) / last.at.Sub(first.at).Seconds()
}

// line says how far the pull is, in one line; "" before the plan is known.
func (y *tally) line(chinese bool) string {
	if y.files == 0 {
		return ""
	}
	percent := 100 * float64(y.done) / float64(max(y.bytes, 1))
	format := "%[1]s of %[2]s (%.0[3]f%%), %[4]d of %[5]d files"
	if chinese {
		format = "%[1]s / %[2]s（%.0[3]f%%），%[4]d / %[5]d 个文件"
	}
	s := fmt.Sprintf(format, size(y.done), size(y.bytes), percent, y.filesDone, y.files)
	if rate := y.rate(); rate > 0 && y.done < y.bytes {
		left := (time.Duration(float64(y.bytes-y.done)/rate) * time.Second).Round(time.Second)
		format = ", %s/s, %v left"
		if chinese {
			format = "，%s/s，剩余 %v"
		}
		s += fmt.Sprintf(format, size(int64(rate)), left)
	}
	return s
}

// label is what stands before the bar of a file.
func (y *tally) label(name string, chinese bool) string {
	words := [...]string{Checking: "checking", Downloading: "", Verifying: "verifying", Done: ""}
	if chinese {
		words = [...]string{Checking: "检查", Downloading: "", Verifying: "校验", Done: ""}
	}
	if r := []rune(name); len(r) > 36 {
		name = "…" + string(r[len(r)-35:])
	}
	if w := words[y.state[name].phase]; w != "" {
		return name + " " + w
	}
	return name
}
