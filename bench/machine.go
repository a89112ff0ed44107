package bench

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"chulengo/kernels/cpu"
)

// Environment says where and with what a report was made.
type Environment struct {
	Date    time.Time `json:"date"`
	Commit  string    `json:"commit"` // with "+changes" where the build had uncommitted ones; "unknown" without a record
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Threads int       `json:"threads"`
	Device  string    `json:"device"` // which routines run
}

func threads() int { return runtime.GOMAXPROCS(0) }

func environment(o *Options) Environment {
	dev := cpu.New(cpu.Options{Threads: o.Threads})
	defer dev.Close()
	e := Environment{
		Date: time.Now().UTC().Truncate(time.Second), Commit: o.Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		CPU: cpuName(), Cores: runtime.NumCPU(), Threads: o.Threads, Device: dev.Name(),
	}
	if e.Commit == "" {
		e.Commit = commit()
	}
	return e
}

// commit is what the build recorded.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, changes := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changes = "+changes"
		}
	}
	return revision + changes
}

// cpuName asks Linux; elsewhere the architecture must do.
func cpuName() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
