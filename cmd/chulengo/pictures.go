package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"chulengo/engine"
	"chulengo/model"
)

// pictures reads pictures for the model; one that takes none is an error that says so.
func (l *loaded) pictures() (*engine.PictureReader, error) {
	if err := l.needTokenizer(); err != nil {
		return nil, err
	}
	p, err := model.LoadPictures(l.files, l.config, l.tokenizer.Special)
	if err != nil {
		return nil, unusable(err, "the checkpoint %s takes no pictures", "模型 %s 看不了图片", l.where())
	}
	return engine.NewPictureReader(p), nil
}

// readPictures opens the files of pictures.
func (l *loaded) readPictures(paths []string) (files []*engine.PictureFile, err error) {
	if len(paths) == 0 {
		return nil, nil
	}
	reader, err := l.pictures()
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		data, err := readFile(path, engine.MaxPictureBytes)
		if err != nil {
			return nil, failed(err, "cannot read the picture", "无法读取图片")
		}
		f, err := reader.Open(data)
		if err != nil {
			return nil, failed(err, "cannot use the picture %s", "无法使用图片 %s", path)
		}
		files = append(files, f)
	}
	return files, nil
}

// readFile reads a regular file of at most limit bytes and one more, by which a larger one is known.
func readFile(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, failed(nil, "%s is not a file", "%s 不是文件", path)
	}
	data := make([]byte, min(info.Size(), int64(limit)+1))
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		return nil, err
	}
	return data, nil
}

// dropped takes the paths of pictures out of a message, as terminals write them when files are dropped on them: in quotes,
// with backslashes before blanks, or as file:// addresses. What is no picture, or not there, stays text.
func dropped(text string) (paths []string, rest string) {
	var kept strings.Builder
	for text != "" {
		word, length := shellWord(text)
		if isPicture(word) {
			paths = append(paths, word)
			text = strings.TrimLeft(text[length:], " ")
			continue
		}
		length = max(length, 1)
		kept.WriteString(text[:length])
		text = text[length:]
	}
	return paths, strings.TrimSpace(kept.String())
}

// shellWord reads the word that text begins with, and how many bytes it takes; "" where it begins with a blank.
func shellWord(text string) (word string, length int) {
	if quote := text[0]; quote == '\'' || quote == '"' {
		if end := strings.IndexByte(text[1:], quote); end >= 0 {
			return text[1 : 1+end], end + 2
		}
	}
	var b strings.Builder
	for length < len(text) && text[length] != ' ' && text[length] != '\n' {
		// On Windows a backslash separates folders.
		if text[length] == '\\' && length+1 < len(text) && os.PathSeparator == '/' {
			length++
		}
		b.WriteByte(text[length])
		length++
	}
	word = b.String()
	if u, err := url.Parse(word); err == nil && u.Scheme == "file" {
		word = filepath.FromSlash(u.Path)
	}
	return word, length
}

// isPicture says whether a word names a file that is called like a picture.
func isPicture(word string) bool {
	switch strings.ToLower(filepath.Ext(word)) {
	case ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp":
		info, err := os.Stat(word)
		return err == nil && info.Mode().IsRegular()
	}
	return false
}
