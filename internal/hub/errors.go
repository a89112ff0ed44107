package hub

import (
	"errors"
	"fmt"
	"strings"
)

// Classes of failures, for errors.Is.
var (
	ErrBadRef     = errors.New("not a model reference")
	ErrNotFound   = errors.New("not found")
	ErrIncomplete = errors.New("incomplete checkpoint")
	ErrGated      = errors.New("access refused")
	ErrOffline    = errors.New("offline")
	ErrNetwork    = errors.New("network failure")
	ErrProtocol   = errors.New("unexpected answer")
	ErrCorrupt    = errors.New("content differs from the listing")
	ErrUnsafeName = errors.New("unsafe file name")
	ErrPattern    = errors.New("bad pattern")
	ErrNoSpace    = errors.New("not enough disk space")
	ErrBusy       = errors.New("folder in use")
	ErrDisk       = errors.New("file system failure")
	ErrStopped    = errors.New("stopped")
)

// Error is a failure as a user meets it. It unwraps to one of the classes above and, if there is one, to its cause.
type Error struct {
	Kind  error // one of the Err values
	Cause error // nil if the failure is ours to find, not another library's to report

	en, zh string
}

// Error returns the English text with the package's prefix.
func (e *Error) Error() string { return "hub: " + e.en }

// Unwrap lets errors.Is and errors.As see the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Localized returns the text in the language of lang, a tag or a locale such as "zh-CN" or "zh_CN.UTF-8": Chinese if
// it begins with zh, English otherwise. It has no prefix.
func (e *Error) Localized(lang string) string {
	if chinese(lang) {
		return e.zh
	}
	return e.en
}

func chinese(lang string) bool { return strings.HasPrefix(strings.ToLower(lang), "zh") }

// fail makes an Error from two formats that share their arguments (explicit indexes where the order differs).
func fail(kind, cause error, en, zh string, args ...any) *Error {
	return &Error{Kind: kind, Cause: cause, en: fmt.Sprintf(en, args...), zh: fmt.Sprintf(zh, args...)}
}

// diskError is the failure of a file operation on name (a path inside the checkpoint folder dir).
func diskError(err error, dir, name string) *Error {
	if isDiskFull(err) {
		return fail(ErrNoSpace, err,
			"%[1]s: the disk filled up while writing %[2]s; free some space and run the same command again: it continues where it was",
			"%[1]s：写入 %[2]s 时磁盘已满；请腾出空间后重新运行同一命令，将从断点继续", dir, name)
	}
	return fail(ErrDisk, err, "%[1]s: %[2]s: %[3]v", "%[1]s：%[2]s：%[3]v", dir, name, err)
}

// corruptError: the content of file is not what the listing says.
func corruptError(ref Ref, file, want, got string) *Error {
	return fail(ErrCorrupt, nil,
		"%[1]s: %[2]s: downloaded twice, but the content is wrong: want %[3]s, got %[4]s; if the model was just updated, run the command again, otherwise try another endpoint",
		"%[1]s：%[2]s：下载了两次，内容仍不正确：应为 %[3]s，实为 %[4]s；若模型刚刚更新，请重新运行该命令，否则请换一个下载源",
		ref, file, want, got)
}

// size formats a number of bytes in decimal units, as disk makers and both hubs do.
func size(n int64) string {
	switch {
	case n >= 1e12:
		return fmt.Sprintf("%.2f TB", float64(n)/1e12)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
