package serve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"chulengo/engine"
	"chulengo/serve/internal/completion"
)

// maxShown is how many pictures a question may have.
const maxShown = 16

// shown is a picture of a question: a file that came with it, or the id of one that the conversation has.
type shown struct {
	id   string
	file []byte // nil: the store has it
}

// pictureID names a file by its content.
func pictureID(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

func ids(list []shown) (ids []string) {
	for _, p := range list {
		ids = append(ids, p.id)
	}
	return ids
}

func files(list []shown) map[string][]byte {
	m := map[string][]byte{}
	for _, p := range list {
		if p.file != nil {
			m[p.id] = p.file
		}
	}
	return m
}

// publicly is an error of the protocols as the page's routes say it.
func publicly(e *completion.Error) *httpError {
	return &httpError{status: e.Status(), text: message{e.Text(true), e.Text(false)}, cause: e.Cause}
}

// pictures reads "images": data: addresses, or ids of pictures in the conversation.
func (s *Server) pictures(backend Backend, f fields) (list []shown, err error) {
	raw, ok := f["images"]
	if !ok {
		return nil, nil
	}
	var texts []string
	if json.Unmarshal(raw, &texts) != nil {
		return nil, badRequest("字段 images 必须是字符串数组", "field images must be an array of strings")
	}
	if len(texts) > maxShown {
		return nil, badRequest("字段 images:一次最多 %d 张图片", "field images: want at most %d pictures", maxShown)
	}
	reader := backend.Info().Pictures
	if len(texts) > 0 && reader == nil {
		return nil, badRequest("这里的模型看不了图片,请只发文字", "this model does not take pictures; please send text only")
	}
	for i, text := range texts {
		param := fmt.Sprintf("images[%d]", i)
		if id, err := hex.DecodeString(text); err == nil && len(id) == sha256.Size {
			list = append(list, shown{id: strings.ToLower(text)})
			continue
		}
		file, bad := completion.ReadData(param, text)
		if bad == nil {
			if _, err := reader.Open(file); err != nil {
				bad = completion.Unreadable(param, err)
			}
		}
		if bad != nil {
			return nil, publicly(bad)
		}
		list = append(list, shown{pictureID(file), file})
	}
	return list, nil
}

// illustrate gives the messages of a prompt with their pictures. A model that cannot see gets the texts of earlier
// questions alone.
func (s *Server) illustrate(ctx context.Context, backend Backend, q ask, messages []StoredMessage) ([]Message, error) {
	reader := backend.Info().Pictures
	fresh := files(q.pictures)
	list := make([]Message, len(messages))
	for i, m := range messages {
		list[i] = Message{Role: m.Role, Content: m.Content}
		if reader == nil {
			continue
		}
		for _, id := range m.Pictures {
			file, ok := fresh[id]
			if !ok {
				var err error
				file, err = s.store.Picture(ctx, q.chatID, id)
				switch {
				case errors.Is(err, ErrNoPicture) && i == len(messages)-1:
					return nil, badRequest("字段 images:这个会话里没有图片 %s", "field images: the conversation has no picture %s", id)
				case errors.Is(err, ErrNoPicture):
					continue
				case err != nil:
					return nil, err
				}
			}
			opened, err := reader.Open(file)
			if err != nil {
				return nil, publicly(completion.Unreadable("images", err))
			}
			list[i].Pictures = append(list[i].Pictures, opened)
		}
	}
	return list, nil
}

// expand puts the pictures of messages into their rendered prompt.
func expand(backend Backend, prompt []int32, messages []Message) ([]int32, []engine.Media, error) {
	var files []*engine.PictureFile
	for _, m := range messages {
		files = append(files, m.Pictures...)
	}
	if len(files) == 0 {
		return prompt, nil, nil
	}
	return backend.Info().Pictures.Expand(prompt, files)
}

// pictureKinds are the files that browsers are given as pictures.
var pictureKinds = map[string]bool{"image/png": true, "image/jpeg": true, "image/gif": true, "image/webp": true, "image/bmp": true}

// showPicture is GET /api/conversations/{id}/pictures/{picture}.
func (s *Server) showPicture(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	id, err := url.PathUnescape(c.Param("picture"))
	if err != nil {
		return errNoPicture
	}
	file, err := s.store.Picture(c.Request().Context(), found.ID, strings.ToLower(id))
	if errors.Is(err, ErrNoPicture) {
		return errNoPicture
	}
	if err != nil {
		return err
	}
	kind := http.DetectContentType(file)
	if !pictureKinds[kind] {
		kind = "application/octet-stream"
	}
	h := c.Response().Header()
	h.Set("Cache-Control", "private, max-age=31536000, immutable") // the id names the content
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	return c.Blob(http.StatusOK, kind, file)
}
