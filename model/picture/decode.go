package picture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // the first frame of an animation
	_ "image/jpeg"
	_ "image/png"
	"io"
	"strings"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/webp"
	"golang.org/x/sync/semaphore"
)

// Limits of what is opened. A file says how large its picture is before anything is allocated for it, so a small file
// cannot claim more memory than these: 48 megapixels are what the largest telephone cameras write, and take at most 8
// bytes a pixel while they are decoded.
const (
	MaxBytes  = 32 << 20 // of a file
	MaxPixels = 50_000_000
	MaxSide   = 32_768
)

var decoding = semaphore.NewWeighted(MaxPixels)

// Formats names what can be read, for error messages.
const Formats = "PNG, JPEG, GIF, WebP or BMP"

// Error says why a file cannot be used as a picture.
type Error struct {
	Want, Got string
	Chinese   string // the same for people who read Chinese
}

func (e *Error) Error() string { return fmt.Sprintf("picture: want %s, got %s", e.Want, e.Got) }

// Localized is the error in the language of lang: zh or en.
func (e *Error) Localized(lang string) string {
	if strings.HasPrefix(lang, "zh") {
		return e.Chinese
	}
	return fmt.Sprintf("want %s, got %s", e.Want, e.Got)
}

// Info is what a file says of its picture before it is decoded.
type Info struct {
	Format        string // "png", "jpeg", "gif", "webp", "bmp"
	Width, Height int    // upright

	screen      image.Point // as stored
	orientation int         // EXIF: 1 to 8
}

// Inspect reads a file's header and checks the limits. Errors are *Error.
func Inspect(file []byte) (Info, error) {
	switch {
	case len(file) == 0:
		return Info{}, &Error{"an image file (" + Formats + ")", "an empty one", "文件是空的"}
	case len(file) > MaxBytes:
		return Info{}, &Error{fmt.Sprintf("at most %d bytes", MaxBytes), fmt.Sprint(len(file)),
			fmt.Sprintf("文件不能超过 %d 字节，实际 %d 字节", MaxBytes, len(file))}
	}
	c, format, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return Info{}, decodeError("", err)
	}
	switch {
	case c.Width < 1 || c.Height < 1:
		return Info{}, &Error{"at least 1 × 1 pixel", fmt.Sprintf("%d × %d", c.Width, c.Height), "图片没有像素"}
	case c.Width > MaxSide || c.Height > MaxSide || c.Width > MaxPixels/c.Height:
		return Info{}, &Error{fmt.Sprintf("at most %d pixels on a side and %d in all", MaxSide, MaxPixels), fmt.Sprintf("%d × %d", c.Width, c.Height),
			fmt.Sprintf("边长不能超过 %d 像素、总数不能超过 %d，实际 %d × %d", MaxSide, MaxPixels, c.Width, c.Height)}
	}
	i := Info{Format: format, Width: c.Width, Height: c.Height, screen: image.Pt(c.Width, c.Height), orientation: orientation(format, file)}
	if i.orientation > 4 {
		i.Width, i.Height = i.Height, i.Width
	}
	return i, nil
}

// decodeError tells a damaged file from one of another kind.
func decodeError(format string, err error) error {
	cut := func(text string) bool { return strings.Contains(err.Error(), text) } // as package png words it
	switch {
	case errors.Is(err, image.ErrFormat):
		return &Error{"an image file (" + Formats + ")", "another kind of file", "不是图片文件（" + Formats + "）"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), cut("unexpected EOF"), cut("not enough pixel data"):
		return &Error{"a whole file", "one that is cut off", "文件不完整"}
	}
	return damaged(format, err)
}

// damaged says that a file cannot be decoded; format "": nor its kind be told.
func damaged(format string, why any) error {
	if format == "" {
		format = "image"
	}
	return &Error{"a readable " + format + " file", fmt.Sprint(why), fmt.Sprintf("文件已损坏或不受支持（%v）", why)}
}

// Decode reads a picture within the limits, turns it upright as its EXIF data say and lays transparent ones on white. Of an
// animation it is the first frame. Errors are *Error.
func Decode(file []byte) (out *RGB, err error) {
	info, err := Inspect(file)
	if err != nil {
		return nil, err
	}
	// What is decoded at a time has no more pixels than one picture may have.
	pixels := int64(info.Width) * int64(info.Height)
	if err := decoding.Acquire(context.Background(), pixels); err != nil {
		return nil, err
	}
	defer decoding.Release(pixels)
	defer func() { // a decoder's mistake is the file's fault, not the end of the process
		if p := recover(); p != nil {
			out, err = nil, damaged(info.Format, p)
		}
	}()
	img, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, decodeError(info.Format, err)
	}
	flat := &RGB{info.screen.X, info.screen.Y, make([]byte, info.screen.X*info.screen.Y*3)}
	if img.Bounds() != (image.Rectangle{Max: info.screen}) {
		for i := range flat.Pix { // a frame of an animation may cover a part of its screen
			flat.Pix[i] = 255
		}
	}
	flat.paint(img)
	return flat.upright(info.orientation), nil
}

// paint lays img on p, where it lies within.
func (p *RGB) paint(img image.Image) {
	at := pixelReader(img)
	area := img.Bounds().Intersect(image.Rect(0, 0, p.Width, p.Height))
	for y := area.Min.Y; y < area.Max.Y; y++ {
		row := p.Pix[(y*p.Width+area.Min.X)*3:]
		for x := area.Min.X; x < area.Max.X; x++ {
			c := at(x, y)
			if c.A != 255 {
				c = overWhite(c)
			}
			row[0], row[1], row[2] = c.R, c.G, c.B
			row = row[3:]
		}
	}
}

// pixelReader gives the pixels of an image; the kinds that decoders make of most files are read without an interface.
func pixelReader(img image.Image) func(x, y int) color.NRGBA {
	switch m := img.(type) {
	case *image.YCbCr:
		return func(x, y int) color.NRGBA {
			i, j := m.YOffset(x, y), m.COffset(x, y)
			r, g, b := color.YCbCrToRGB(m.Y[i], m.Cb[j], m.Cr[j])
			return color.NRGBA{r, g, b, 255}
		}
	case *image.NRGBA:
		return m.NRGBAAt
	case *image.RGBA:
		if m.Opaque() {
			return func(x, y int) color.NRGBA { return color.NRGBA(m.RGBAAt(x, y)) }
		}
	case *image.Gray:
		return func(x, y int) color.NRGBA {
			v := m.GrayAt(x, y).Y
			return color.NRGBA{v, v, v, 255}
		}
	case *image.Paletted:
		palette := make([]color.NRGBA, 256) // indices outside of the palette are transparent
		for i, c := range m.Palette {
			palette[i] = color.NRGBAModel.Convert(c).(color.NRGBA)
		}
		return func(x, y int) color.NRGBA { return palette[m.ColorIndexAt(x, y)] }
	}
	return func(x, y int) color.NRGBA { return color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA) }
}

// overWhite lays a transparent pixel on white, rounding to nearest.
func overWhite(c color.NRGBA) color.NRGBA {
	alpha := int(c.A)
	mix := func(v uint8) uint8 { return uint8((int(v)*alpha + 255*(255-alpha) + 127) / 255) }
	return color.NRGBA{mix(c.R), mix(c.G), mix(c.B), 255}
}

// upright undoes the turning and mirroring that an EXIF orientation stands for.
func (p *RGB) upright(orientation int) *RGB {
	if orientation < 2 || orientation > 8 {
		return p
	}
	out := &RGB{p.Width, p.Height, make([]byte, len(p.Pix))}
	if orientation > 4 {
		out.Width, out.Height = p.Height, p.Width
	}
	for y := range out.Height {
		for x := range out.Width {
			u, v := x, y // of the stored picture
			if orientation > 4 {
				u, v = y, x
			}
			if orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8 {
				u = p.Width - 1 - u
			}
			if orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7 {
				v = p.Height - 1 - v
			}
			copy(out.Pix[(y*out.Width+x)*3:][:3], p.Pix[(v*p.Width+u)*3:])
		}
	}
	return out
}
