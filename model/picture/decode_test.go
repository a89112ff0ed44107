package picture

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"slices"
	"strings"
	"testing"

	"golang.org/x/image/bmp"
)

// corners is a picture whose every pixel tells where it is: 3 wide, 2 high.
func corners() *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, 3, 2))
	for i := range 6 {
		m.SetNRGBA(i%3, i/3, color.NRGBA{uint8(40 * i), 10, 200, 255})
	}
	return m
}

func encoded(t testing.TB, encode func(*bytes.Buffer) error) []byte {
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pngFile(t testing.TB, m image.Image) []byte {
	return encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, m) })
}

// exifBlock is a TIFF header with one tag.
func exifBlock(orientation uint16, order binary.ByteOrder) []byte {
	b := []byte("II*\x00\x08\x00\x00\x00")
	if order == binary.BigEndian {
		b = []byte("MM\x00*\x00\x00\x00\x08")
	}
	b, _ = binary.Append(b, order, []uint16{1, 0x0112, 3})
	b, _ = binary.Append(b, order, uint32(1))
	b, _ = binary.Append(b, order, []uint16{orientation, 0})
	return append(b, 0, 0, 0, 0)
}

// withEXIF puts a block behind a PNG's header.
func withEXIF(file, block []byte) []byte {
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(block)))
	chunk = append(append(chunk, "eXIf"...), block...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	const header = 8 + 25 // signature and IHDR
	return slices.Concat(file[:header], chunk, file[header:])
}

// reds reads the picture's first channel, line by line.
func reds(p *RGB) (out []int) {
	for i := 0; i < len(p.Pix); i += 3 {
		out = append(out, int(p.Pix[i])/40)
	}
	return out
}

func TestOrientation(t *testing.T) {
	file := pngFile(t, corners())
	var jpegFile []byte
	{
		flat := encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, corners(), nil) })
		block := append([]byte("Exif\x00\x00"), exifBlock(6, binary.BigEndian)...)
		segment := binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(block)+2))
		jpegFile = slices.Concat(flat[:2], segment, block, flat[2:])
	}
	for o, want := range [][]int{
		1: {0, 1, 2, 3, 4, 5}, 2: {2, 1, 0, 5, 4, 3}, 3: {5, 4, 3, 2, 1, 0}, 4: {3, 4, 5, 0, 1, 2},
		5: {0, 3, 1, 4, 2, 5}, 6: {3, 0, 4, 1, 5, 2}, 7: {5, 2, 4, 1, 3, 0}, 8: {2, 5, 1, 4, 0, 3}, 9: {0, 1, 2, 3, 4, 5},
	} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			turned := withEXIF(file, exifBlock(uint16(o), order))
			p, err := Decode(turned)
			if err != nil {
				t.Fatal(err)
			}
			info, err := Inspect(turned)
			if got := reds(p); err != nil || !slices.Equal(got, want) && o > 0 || info.Width != p.Width || info.Height != p.Height {
				t.Errorf("orientation %d: got %v as %d × %d (%+v, %v), want %v", o, got, p.Width, p.Height, info, err, want)
			}
		}
	}
	if p, err := Decode(jpegFile); err != nil || p.Width != 2 || p.Height != 3 {
		t.Errorf("a JPEG of orientation 6: got %v, %v, want 2 × 3", p, err)
	}
}

func TestFormats(t *testing.T) {
	m := corners()
	decode := func(name string, file []byte) *RGB {
		t.Helper()
		p, err := Decode(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return p
	}
	want := []int{0, 1, 2, 3, 4, 5}
	for name, file := range map[string][]byte{
		"png": pngFile(t, m),
		"bmp": encoded(t, func(b *bytes.Buffer) error { return bmp.Encode(b, m) }),
		"gif": encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, m, nil) }),
	} {
		if p := decode(name, file); p.Width != 3 || p.Height != 2 || name != "gif" && !slices.Equal(reds(p), want) {
			t.Errorf("%s: got %d × %d %v", name, p.Width, p.Height, p.Pix)
		}
	}
	flat := image.NewGray(image.Rect(0, 0, 20, 9))
	for i := range flat.Pix {
		flat.Pix[i] = 77
	}
	p := decode("jpeg", encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, flat, nil) }))
	if p.Width != 20 || p.Height != 9 || p.Pix[0] != 77 || p.Pix[20*9*3-1] != 77 {
		t.Errorf("jpeg: got %d × %d, %d", p.Width, p.Height, p.Pix[0])
	}
	for name, text := range map[string]string{
		"lossy webp":    "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA",
		"lossless webp": "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==",
	} {
		file, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if p := decode(name, file); p.Width != 1 || p.Height != 1 {
			t.Errorf("%s: got %d × %d", name, p.Width, p.Height)
		}
	}
}

// Transparent pixels show white, half transparent ones their share of it; so does what the first frame of an animation
// leaves free.
func TestWhite(t *testing.T) {
	m := image.NewNRGBA(image.Rect(0, 0, 3, 1))
	m.SetNRGBA(0, 0, color.NRGBA{10, 20, 30, 0})
	m.SetNRGBA(1, 0, color.NRGBA{0, 100, 255, 128})
	m.SetNRGBA(2, 0, color.NRGBA{10, 20, 30, 255})
	p, err := Decode(pngFile(t, m))
	if want := []byte{255, 255, 255, 127, 177, 255, 10, 20, 30}; err != nil || !slices.Equal(p.Pix, want) {
		t.Errorf("got %v, %v, want %v", p, err, want)
	}
	black := image.NewPaletted(image.Rect(1, 0, 2, 1), color.Palette{color.Black, color.White})
	second := image.NewPaletted(image.Rect(0, 0, 3, 1), color.Palette{color.RGBA{255, 0, 0, 255}})
	file := encoded(t, func(b *bytes.Buffer) error {
		return gif.EncodeAll(b, &gif.GIF{Image: []*image.Paletted{black, second}, Delay: []int{1, 1}, Config: image.Config{Width: 3, Height: 1}})
	})
	p, err = Decode(file)
	if want := []byte{255, 255, 255, 0, 0, 0, 255, 255, 255}; err != nil || !slices.Equal(p.Pix, want) {
		t.Errorf("first frame: got %v, %v, want %v", p, err, want)
	}
}

// claims is a small PNG that says it is width × height.
func claims(t testing.TB, width, height uint32) []byte {
	file := pngFile(t, corners())
	binary.BigEndian.PutUint32(file[16:], width)
	binary.BigEndian.PutUint32(file[20:], height)
	binary.BigEndian.PutUint32(file[29:], crc32.ChecksumIEEE(file[12:29]))
	return file
}

func TestRefused(t *testing.T) {
	whole := pngFile(t, corners())
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":        {nil, "an empty one"},
		"text":         {[]byte("not a picture"), "another kind of file"},
		"too big":      {make([]byte, MaxBytes+1), "at most 33554432 bytes"},
		"cut":          {whole[:len(whole)-20], "cut off"},
		"cut header":   {whole[:20], "cut off"},
		"zero width":   {claims(t, 0, 5), "want"},
		"bomb":         {claims(t, 30000, 30000), "30000 × 30000"},
		"long":         {claims(t, MaxSide+1, 1), "at most 32768 pixels on a side"},
		"damaged":      {append(slices.Clone(whole[:45]), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "want"},
		"short jpeg":   {[]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), "cut off"},
		"gif no frame": {[]byte("GIF89a\x05\x00\x05\x00\x00\x00\x00\x3b"), "want"},
	} {
		_, err := Decode(c.file)
		if err == nil || !strings.HasPrefix(err.Error(), "picture: want ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(pngFile(f, corners()))
	f.Add(withEXIF(pngFile(f, corners()), exifBlock(6, binary.BigEndian)))
	f.Add(encoded(f, func(b *bytes.Buffer) error { return jpeg.Encode(b, corners(), nil) }))
	f.Add(encoded(f, func(b *bytes.Buffer) error { return gif.Encode(b, corners(), nil) }))
	f.Add(encoded(f, func(b *bytes.Buffer) error { return bmp.Encode(b, corners()) }))
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00/\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"))
	c := config(28, 4)
	f.Fuzz(func(t *testing.T, file []byte) {
		info, err := Inspect(file)
		if err != nil || info.Width*info.Height > 1<<20 {
			return
		}
		p, err := Decode(file)
		if err != nil {
			return
		}
		if p.Width != info.Width || p.Height != info.Height || len(p.Pix) != 3*p.Width*p.Height {
			t.Fatalf("%+v, decoded %d × %d in %d bytes", info, p.Width, p.Height, len(p.Pix))
		}
		g, _, _ := c.Fit(p.Width, p.Height)
		if got := len(c.Tiles(p)); got != g.Tiles()*3*28*28*2 {
			t.Fatalf("%d × %d: %d bytes for %v", p.Width, p.Height, got, g)
		}
	})
}

// orientation reads blocks that lie.
func FuzzOrientation(f *testing.F) {
	f.Add("jpeg", []byte("\xff\xd8\xff\xe1\x00\x04Exif\x00\x00"))
	f.Add("png", withEXIF(pngFile(f, corners()), exifBlock(3, binary.LittleEndian)))
	f.Add("webp", append([]byte("RIFF\x00\x00\x00\x00WEBPEXIF\x20\x00\x00\x00"), exifBlock(3, binary.LittleEndian)...))
	f.Fuzz(func(t *testing.T, format string, file []byte) {
		if o := orientation(format, file); o < 1 || o > 8 {
			t.Fatalf("orientation %d", o)
		}
	})
}
