// Package body reads the JSON bodies of API requests, so that whatever is wrong with one is told with the field's path:
//
//	messages[1].content[0].type: want a string, got the number 3
//
// null means that a field is absent. Fields are never converted (numbers in strings are errors), numbers that no
// float64 or int64 holds are errors, and so are names that occur twice, texts that are no UTF-8, and nesting without
// end. Fields that nobody asks for are ignored; Unknown lists them.
//
// A form remembers its first error, so that a protocol reads all fields in a row and asks for Err once.
package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chulengo/serve/internal/completion"
)

// Value is one JSON value of a body. The zero Value is absent.
type Value struct {
	n    *node
	form *form
}

// form is what the values of one body share.
type form struct {
	data  []byte
	err   *completion.Error
	asked map[*node]bool
}

// Read reads the JSON object in a request's body of at most limit bytes. The request must say that it is JSON: browsers
// let a page of any site send other bodies to us, and ask first about this one.
func Read(w http.ResponseWriter, r *http.Request, limit int64) (Value, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || media != "application/json" &&
		!(strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")) {
		return Value{}, &completion.Error{Kind: completion.KindMediaType, ZH: "请求的 Content-Type 必须是 application/json",
			EN: "the Content-Type of the request must be application/json"}
	}
	return ReadUntyped(w, r, limit)
}

// ReadUntyped is Read whatever the request says of its body, for those that no browser sent.
func ReadUntyped(w http.ResponseWriter, r *http.Request, limit int64) (Value, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	// A deadline that outlived the body would end the request's context in the midst of an answer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			e := completion.Invalid("", "请求体太大，最多 %d 字节", "the request's body is too large: at most %d bytes", limit)
			e.Kind = completion.KindTooLarge
			return Value{}, e
		}
		return Value{}, completion.Invalid("", "请求体没有完整到达", "the request's body did not arrive whole")
	}
	return Parse(data)
}

// Parse reads a JSON object.
func Parse(data []byte) (Value, error) {
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	n, err := parse(data)
	if err != nil {
		return Value{}, err
	}
	v := Value{n, &form{data: data, asked: map[*node]bool{}}}
	if n.kind != object {
		v.want("一个对象", "an object")
		return Value{}, v.form.err
	}
	return v, nil
}

// Err is the first thing that was wrong, or nil.
func (v Value) Err() error {
	if v.form == nil || v.form.err == nil {
		return nil
	}
	return v.form.err
}

// Path is where the value lies; "" for the body.
func (v Value) Path() string { return v.n.path() }

// Is says whether there is a value that is not null.
func (v Value) Is() bool { return v.n != nil && v.n.kind != absent }

// IsText, IsNumber, IsList and IsObject say what it is.
func (v Value) IsText() bool   { return v.n != nil && v.n.kind == text }
func (v Value) IsNumber() bool { return v.n != nil && v.n.kind == number }
func (v Value) IsList() bool   { return v.n != nil && v.n.kind == array }
func (v Value) IsObject() bool { return v.n != nil && v.n.kind == object }

// Raw is the value as it came; nil where there is none. It may be kept.
func (v Value) Raw() json.RawMessage {
	if !v.Is() {
		return nil
	}
	return v.raw()
}

func (v Value) raw() []byte { return v.form.data[v.n.start:v.n.end] }

// text decodes a string.
func (v Value) text() (s string) {
	if err := json.Unmarshal(v.raw(), &s); err != nil {
		panic("body: a string that was read cannot be read: " + err.Error())
	}
	return s
}

// found says what a value is, in both languages.
func (v Value) found() (zh, en string) {
	if v.n == nil {
		return "空值", "nothing"
	}
	switch v.n.kind {
	case yes, no:
		return string(v.raw()), string(v.raw())
	case number:
		return "数字 " + short(string(v.raw())), "the number " + short(string(v.raw()))
	case text:
		quoted := strconv.Quote(short(v.text()))
		return "字符串 " + quoted, "the string " + quoted
	case array:
		return "数组", "an array"
	case object:
		return "对象", "an object"
	}
	return "空值", "nothing"
}

// Fail notes that the value is wrong, unless something was before.
func (v Value) Fail(zh, en string, args ...any) {
	if v.form.err == nil {
		v.form.err = completion.Invalid(v.Path(), zh, en, args...)
	}
}

// want notes that the value is not what it should be.
func (v Value) want(zh, en string) {
	foundZH, foundEN := v.found()
	if v.form.err == nil {
		v.form.err = &completion.Error{Kind: completion.KindInvalid, Param: v.Path(),
			ZH: "应为" + zh + "，实际是" + foundZH, EN: "want " + en + ", got " + foundEN}
	}
}

// Missing notes that a field is not there.
func (v Value) Missing(name string) {
	if v.form.err == nil {
		v.form.err = completion.Invalid(join(v.Path(), name), "缺少这个字段", "the field is missing")
	}
}

// Get gives a field of an object; the zero Value where there is none, or null. It counts as asked for.
func (v Value) Get(name string) Value {
	if v.n == nil || v.n.kind != object {
		return Value{form: v.form}
	}
	for i, have := range v.n.inside.names {
		if have == name {
			v.form.asked[v.n.inside.items[i]] = true
			if v.n.inside.items[i].kind == absent {
				break
			}
			return Value{v.n.inside.items[i], v.form}
		}
	}
	return Value{form: v.form}
}

// Need gives a field that must be there.
func (v Value) Need(name string) Value {
	field := v.Get(name)
	if !field.Is() {
		v.Missing(name)
	}
	return field
}

// MustObject says whether the value is an object, and notes it where it is not, even where there is none.
func (v Value) MustObject() bool {
	if !v.IsObject() {
		v.Fail("应为对象", "want an object")
		return false
	}
	return true
}

// First gives the first of several fields that is there: names that mean the same to different clients.
func (v Value) First(names ...string) Value {
	found := Value{form: v.form}
	for _, name := range names {
		if f := v.Get(name); f.Is() && !found.Is() {
			found = f
		}
	}
	return found
}

// Unknown lists the names of the object's fields that nobody asked for, null or not.
func (v Value) Unknown() []string {
	var names []string
	for i, item := range v.n.inside.items {
		if !v.form.asked[item] {
			names = append(names, v.n.inside.names[i])
		}
	}
	return names
}

// List gives the items of an array; none where the value is absent, and an error where it is something else.
func (v Value) List() []Value {
	if !v.Is() {
		return nil
	}
	if v.n.kind != array {
		v.want("数组", "an array")
		return nil
	}
	items := make([]Value, len(v.n.inside.items))
	for i, item := range v.n.inside.items {
		items[i] = Value{item, v.form}
	}
	return items
}

// Object says whether the value is an object; something else is an error, absence is not.
func (v Value) Object() bool {
	if v.Is() && v.n.kind != object {
		v.want("对象", "an object")
	}
	return v.IsObject()
}

// Fields gives an object's fields by their names, in order.
func (v Value) Fields() (names []string, values []Value) {
	if !v.Object() {
		return nil, nil
	}
	for _, item := range v.n.inside.items {
		v.form.asked[item] = true
		values = append(values, Value{item, v.form})
	}
	return v.n.inside.names, values
}

// Text gives a string, or otherwise where the value is absent.
func (v Value) Text(otherwise string) string {
	if !v.Is() {
		return otherwise
	}
	if v.n.kind != text {
		v.want("字符串", "a string")
		return otherwise
	}
	return v.text()
}

// Bool gives a boolean, or otherwise where the value is absent.
func (v Value) Bool(otherwise bool) bool {
	if !v.Is() {
		return otherwise
	}
	if v.n.kind != yes && v.n.kind != no {
		v.want("布尔值", "a boolean")
		return otherwise
	}
	return v.n.kind == yes
}

// Int gives a whole number in [low, high], or otherwise where the value is absent. 3.0 is whole.
func (v Value) Int(otherwise, low, high int) int {
	if !v.Is() {
		return otherwise
	}
	if v.n.kind == number {
		i, err := strconv.ParseInt(string(v.raw()), 10, 64)
		if err != nil {
			// Not written as an integer, or beyond int64.
			f, bad := strconv.ParseFloat(string(v.raw()), 64)
			if bad == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
				i, err = int64(f), nil
			}
		}
		if err == nil && int64(low) <= i && i <= int64(high) {
			return int(i)
		}
	}
	l, h := strconv.Itoa(low), strconv.Itoa(high)
	if high == math.MaxInt || high == math.MaxInt32 {
		v.want("不小于 "+l+" 的整数", "a whole number of at least "+l)
	} else {
		v.want("整数，范围 "+l+" 到 "+h, "a whole number from "+l+" to "+h)
	}
	return otherwise
}

// Float gives a number in [low, high]; nil where the value is absent.
func (v Value) Float(low, high float64) *float64 {
	if !v.Is() {
		return nil
	}
	if v.n.kind == number {
		if f, err := strconv.ParseFloat(string(v.raw()), 64); err == nil && low <= f && f <= high {
			return &f
		}
	}
	l, h := strconv.FormatFloat(low, 'g', -1, 64), strconv.FormatFloat(high, 'g', -1, 64)
	v.want("数字，范围 "+l+" 到 "+h, "a number from "+l+" to "+h)
	return nil
}

// Texts gives a string as a list of one, or a list of strings.
func (v Value) Texts(most int) []string {
	if v.IsText() {
		return []string{v.text()}
	}
	if v.Is() && !v.IsList() {
		v.want("字符串或字符串数组", "a string or an array of strings")
		return nil
	}
	items := v.List()
	if len(items) > most {
		v.Fail("最多 %d 项，实际有 %d 项", "want at most %d items, got %d", most, len(items))
		return nil
	}
	var list []string
	for _, item := range items {
		if !item.IsText() {
			item.want("字符串", "a string")
		}
		list = append(list, item.Text(""))
	}
	return list
}

// IDs gives a list of token ids.
func (v Value) IDs(most int) []int32 {
	items := v.List()
	if len(items) > most {
		v.Fail("最多 %d 项，实际有 %d 项", "want at most %d items, got %d", most, len(items))
		return nil
	}
	ids := make([]int32, 0, len(items))
	for _, item := range items {
		if !item.IsNumber() {
			item.want("token 编号", "a token id")
			break
		}
		ids = append(ids, int32(item.Int(0, 0, math.MaxInt32)))
	}
	return ids
}

// One gives a string that must be one of those named, or otherwise where the value is absent.
func (v Value) One(otherwise string, of ...string) string {
	s := v.Text(otherwise)
	if s == otherwise {
		return s
	}
	for _, one := range of {
		if s == one {
			return s
		}
	}
	if v.IsText() {
		v.want("其中之一："+strings.Join(of, "、"), "one of "+strings.Join(of, ", "))
	}
	return otherwise
}
