package completion

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"chulengo/engine"
	"chulengo/tokenizer"
)

// maxPictures bounds what one request opens; its context bounds what the model can be shown. Few of them are fetched:
// each may take as long as the server waits for an address.
const (
	maxPictures = 64
	maxFetched  = 8
)

// gallery is the pictures of a request, in the order of its messages.
type gallery struct {
	files   []*engine.PictureFile
	params  []string // the field of each
	fetched int      // addresses
	bytes   int      // that came from them
}

// add opens a picture at a field.
func (g *gallery) add(ctx context.Context, c *Core, param string, image *Image) *Error {
	reader := c.options.Pictures
	if reader == nil {
		return &Error{Kind: KindInvalid, Param: param, ZH: "这里的模型看不了图片，请只发文字",
			EN: "this model does not take pictures" + c.options.NoPictures + "; want text only"}
	}
	if len(g.files) == maxPictures {
		return Invalid(param, "一次请求最多 %d 张图片", "want at most %d pictures in a request", maxPictures)
	}
	file, err := g.read(ctx, c, param, image)
	if err != nil {
		return err
	}
	opened, bad := reader.Open(file)
	if bad != nil {
		return Unreadable(param, bad)
	}
	g.files, g.params = append(g.files, opened), append(g.params, param)
	return nil
}

// read gives a picture's file.
func (g *gallery) read(ctx context.Context, c *Core, param string, image *Image) ([]byte, *Error) {
	address := image.URL
	if address == "" {
		return image.Data, nil
	}
	if _, ok := cutPrefixFold(address, "data:"); ok {
		return ReadData(param, address)
	}
	if c.options.Fetch == nil {
		return nil, Invalid(param, "应为 data: 地址；这个服务器没有用 --fetch-images 启动，不会去取网址上的图片",
			"want a data: address; this server was not started with --fetch-images and fetches none")
	}
	if g.fetched++; g.fetched > maxFetched {
		return nil, Invalid(param, "一次请求最多取 %d 个网址", "want at most %d addresses to fetch in a request", maxFetched)
	}
	file, err := c.options.Fetch(ctx, address)
	switch {
	case ctx.Err() != nil:
		return nil, Public(c.explain(context.Cause(ctx)))
	case err != nil:
		return nil, Invalid(param, "无法取得图片：%v", "cannot fetch the picture: %v", err)
	}
	if g.bytes += len(file); g.bytes > engine.MaxPictureBytes {
		return nil, Invalid(param, "网址上的图片合计不能超过 %d 字节", "want at most %d bytes from addresses in a request", engine.MaxPictureBytes)
	}
	return file, nil
}

// ReadData gives the file in a data: address at a field.
func ReadData(param, address string) ([]byte, *Error) {
	rest, ok := cutPrefixFold(address, "data:")
	kind, data, found := strings.Cut(rest, ",")
	if !ok || !found || !strings.HasSuffix(strings.ToLower(kind), ";base64") {
		return nil, Invalid(param, "应为 data:image/…;base64,…", "want data:image/…;base64,…")
	}
	file, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		file, err = base64.RawStdEncoding.DecodeString(data)
	}
	if err != nil {
		return nil, Invalid(param, "不是有效的 base64", "not valid base64")
	}
	return file, nil
}

func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// Unreadable says what is wrong with the file of a picture.
func Unreadable(param string, err error) *Error {
	zh, en := err.Error(), err.Error()
	if l, ok := err.(interface{ Localized(lang string) string }); ok {
		zh, en = l.Localized("zh"), l.Localized("en")
	}
	return &Error{Kind: KindInvalid, Param: param, ZH: "无法读取图片：" + zh, EN: "cannot read the picture: " + en, Cause: err}
}

// expand puts the pictures into a rendered prompt.
func (g *gallery) expand(c *Core, ids []int32) ([]int32, []engine.Media, error) {
	if len(g.files) == 0 {
		return ids, nil, nil
	}
	ids, media, err := c.options.Pictures.Expand(ids, g.files)
	if err != nil {
		return nil, nil, &Error{Kind: KindInvalid, Param: "messages", ZH: "聊天模板没有给每张图片留位置：" + err.Error(),
			EN: "the chat template does not give every picture its place: " + err.Error(), Cause: err}
	}
	return ids, media, nil
}

// blame names the field of a picture that could not be decoded.
func (g *gallery) blame(err error) error {
	var bad *engine.PictureError
	if errors.As(err, &bad) && bad.Index >= 0 && bad.Index < len(g.params) {
		return Unreadable(g.params[bad.Index], bad.Err)
	}
	return err
}

// part gives a part of a message as the template takes it.
func (g *gallery) part(ctx context.Context, c *Core, param string, p Part) (tokenizer.Part, *Error) {
	if p.Image == nil {
		return tokenizer.Part{Type: "text", Text: p.Text}, nil
	}
	return tokenizer.Part{Type: "image"}, g.add(ctx, c, param, p.Image)
}

func contentParam(message, part int) string {
	return fmt.Sprintf("messages[%d].content[%d]", message, part)
}
