package main

import (
	"os"
	"path/filepath"
	"runtime"
)

// dataDir is the folder of chats, keys and histories: --data-dir, or where the system keeps data of programs.
func (a *app) dataDir() (string, error) {
	if a.opts.DataDir != "" {
		return a.opts.DataDir, nil
	}
	var base string
	switch runtime.GOOS {
	case "windows":
		base = a.env("LocalAppData")
	case "darwin":
		if home, err := os.UserHomeDir(); err == nil {
			base = filepath.Join(home, "Library", "Application Support")
		}
	default:
		if base = a.env("XDG_DATA_HOME"); base == "" && a.env("HOME") != "" {
			base = filepath.Join(a.env("HOME"), ".local", "share")
		}
	}
	if base == "" {
		return "", usage("cannot tell where to keep chats: name a folder with --data-dir", "无法确定对话保存在哪里：请用 --data-dir 指定目录")
	}
	return filepath.Join(base, "chulengo"), nil
}
