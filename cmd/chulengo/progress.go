package main

import (
	"fmt"
	"sync"
	"time"
)

// loadBar shows how far loading is: on a terminal one line that changes and disappears, elsewhere a line every few
// seconds. Loads that are over at once show nothing.
func (a *app) loadBar() func(done, total int64) {
	if a.opts.Quiet {
		return nil
	}
	var mu sync.Mutex
	var most int64
	tty, begin := terminal(a.err), time.Now()
	every := 5 * time.Second
	if tty {
		every = 100 * time.Millisecond
	}
	next, shown := begin.Add(max(every, 300*time.Millisecond)), false
	return func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		most = max(most, done)
		end := most >= total
		if !end && now.Before(next) || end && !shown {
			return
		}
		next, shown = now.Add(every), true
		line := fmt.Sprintf(a.say("loading: %s of %s (%d%%)", "正在加载：%s / %s（%d%%）"), size(most), size(total), 100*most/max(total, 1))
		switch {
		case tty && end:
			fmt.Fprint(a.err, "\r\033[K")
		case tty:
			fmt.Fprint(a.err, "\r\033[K"+line)
		default:
			fmt.Fprintln(a.err, line)
		}
	}
}

// size is a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, u := float64(n), 0
	for v >= 1000 && u < len(units)-1 {
		v /= 1000
		u++
	}
	if u == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[u])
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}
