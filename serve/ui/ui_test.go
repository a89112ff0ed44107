package ui_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"chulengo/serve/ui"
)

// The vendored libraries are the ones that vendor.sum names.
func TestVendored(t *testing.T) {
	table, err := fs.ReadFile(ui.FS, "static/vendor/vendor.sum")
	if err != nil {
		t.Fatal(err)
	}
	pinned := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			t.Fatalf("vendor.sum: want 5 fields, got %q", line)
		}
		pinned[fields[0]] = fields[4]
	}
	var files []string
	err = fs.WalkDir(ui.FS, "static/vendor", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".LICENSE") && path != "static/vendor/vendor.sum" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != len(pinned) {
		t.Fatalf("want the %d files that are pinned, got %v, %v", len(pinned), files, err)
	}
	for _, file := range files {
		data, err := fs.ReadFile(ui.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		name, packed := strings.CutSuffix(file[len("static/vendor/"):], ".gz")
		if packed {
			r, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if data, err = io.ReadAll(r); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
		sum := sha256.Sum256(data)
		if got := hex.EncodeToString(sum[:]); got != pinned[name] {
			t.Errorf("%s: sha256 %s is not the pinned one", file, got)
		}
	}
}

// No file of ours names another host: the page works without any. (An XML namespace is a name, not an address.)
func TestNoOtherHost(t *testing.T) {
	address := regexp.MustCompile(`(https?:)?//[a-zA-Z0-9][\w.-]*\.[a-z]{2,}`)
	err := fs.WalkDir(ui.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, "static/vendor/") {
			return err
		}
		data, err := fs.ReadFile(ui.FS, path)
		for _, found := range address.FindAllString(strings.ReplaceAll(string(data), "http://www.w3.org/2000/svg", ""), -1) {
			t.Errorf("%s names %s", path, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
