package picture

import (
	"bytes"
	"encoding/binary"
)

// orientation is the EXIF orientation of a file, 1 (upright) where it has none. A damaged block counts as none.
func orientation(format string, file []byte) int {
	var tiff []byte
	switch format {
	case "jpeg":
		tiff = jpegEXIF(file)
	case "png":
		tiff = pngEXIF(file)
	case "webp":
		tiff = webpEXIF(file)
	}
	tiff = bytes.TrimPrefix(tiff, []byte("Exif\x00\x00"))
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if tiff[0] == 'M' {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	const entry, tagOrientation, typeShort = 12, 0x0112, 3
	list := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(list) < entry {
			break
		}
		if order.Uint16(list) == tagOrientation && order.Uint16(list[2:]) == typeShort {
			if v := int(order.Uint16(list[8:])); v >= 1 && v <= 8 {
				return v
			}
			break
		}
		list = list[entry:]
	}
	return 1
}

// jpegEXIF finds the APP1 segment before the picture's data.
func jpegEXIF(file []byte) []byte {
	const app1, startOfScan = 0xe1, 0xda
	for at := 2; at+4 <= len(file) && file[at] == 0xff && file[at+1] != startOfScan; {
		size := int(binary.BigEndian.Uint16(file[at+2:])) // of the segment without its marker
		end := at + 2 + size
		if size < 2 || end > len(file) {
			return nil
		}
		if body := file[at+4 : end]; file[at+1] == app1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")) {
			return body
		}
		at = end
	}
	return nil
}

// pngEXIF finds the chunk eXIf.
func pngEXIF(file []byte) []byte {
	const signature, frame = 8, 12 // a chunk's length, type and checksum
	for at := signature; at+frame <= len(file); {
		size := int64(binary.BigEndian.Uint32(file[at:]))
		if int64(at)+frame+size > int64(len(file)) {
			return nil
		}
		if string(file[at+4:at+8]) == "eXIf" {
			return file[at+8 : at+8+int(size)]
		}
		at += frame + int(size)
	}
	return nil
}

// webpEXIF finds the RIFF chunk EXIF.
func webpEXIF(file []byte) []byte {
	const header, frame = 12, 8
	for at := header; at+frame <= len(file); {
		size := int64(binary.LittleEndian.Uint32(file[at+4:]))
		if int64(at)+frame+size > int64(len(file)) {
			return nil
		}
		if string(file[at:at+4]) == "EXIF" {
			return file[at+frame : at+frame+int(size)]
		}
		at += frame + int(size+size&1)
	}
	return nil
}
