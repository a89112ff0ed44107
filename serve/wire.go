package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds and defaults of the tutorial's two settings.
const (
	defaultNewTokens = 1024
	minNewTokens     = 256
	maxNewTokens     = 2048

	defaultRounds = 10
	minRounds     = 2
	maxRounds     = 20
)

// maxChatID bounds the length in bytes of an id that a client chooses.
const maxChatID = 256

// fields is a JSON object as it came: the tutorial's clients send numbers as strings and much else, so each field is
// decoded by its own rule.
type fields map[string]json.RawMessage

// readFields reads the JSON object in the body of a request. Errors are *httpError.
func readFields(w http.ResponseWriter, r *http.Request, limit int64) (fields, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || kind != "application/json" &&
		!(strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")) {
		return nil, errNotJSON
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, errTooLarge
		}
		return nil, errBadJSON
	}
	body = bytes.TrimPrefix(body, []byte("\uFEFF"))
	var f fields
	if !utf8.Valid(body) || json.Unmarshal(body, &f) != nil || f == nil {
		return nil, errBadJSON
	}
	return f, nil
}

// lang is the body's own choice of language, else the one given.
func (f fields) lang(otherwise Lang) Lang {
	var tag string
	if raw, ok := f["lang"]; ok && json.Unmarshal(raw, &tag) == nil && tag != "" {
		return ParseLang(tag)
	}
	return otherwise
}

// flag is a boolean; absent and null are false.
func (f fields) flag(name string) (bool, error) {
	raw, ok := f[name]
	if !ok {
		return false, nil
	}
	var v bool
	if err := json.Unmarshal(raw, &v); err != nil {
		return false, badRequest("字段 %s 必须是 true 或 false", "field %s must be true or false", name)
	}
	return v, nil
}

// integer reads a number as Python's int() does, as the tutorial's clients expect: 3.9 is 3, "512" is 512, true is 1.
// The value is clamped to lo..hi. Absent: otherwise. null is an error, as it is there.
func (f fields) integer(name string, otherwise, lo, hi int) (int, error) {
	raw, ok := f[name]
	if !ok {
		return otherwise, nil
	}
	v, ok := pythonInt(raw)
	if !ok {
		return 0, badRequest("字段 %s 必须是整数", "field %s must be an integer", name)
	}
	switch {
	case v.Cmp(big.NewInt(int64(lo))) < 0:
		return lo, nil
	case v.Cmp(big.NewInt(int64(hi))) > 0:
		return hi, nil
	}
	return int(v.Int64()), nil
}

// chatID is the conversation that the request names; "" where it names none (absent, null or "").
func (f fields) chatID() (string, error) {
	raw, ok := f["chat_id"]
	if !ok {
		return "", nil
	}
	var id string
	if err := json.Unmarshal(raw, &id); err != nil {
		return "", badRequest("字段 chat_id 必须是字符串", "field chat_id must be a string")
	}
	if len(id) > maxChatID {
		return "", badRequest("字段 chat_id 太长(最多 %d 字节)", "field chat_id is too long (at most %d bytes)", maxChatID)
	}
	return id, nil
}

// userInput is the question. What Python calls false (absent, null, false, 0, "", [], {}) is errEmptyInput; white
// space is a question.
func (f fields) userInput() (string, error) {
	raw, ok := f["user_input"]
	if !ok || falsy(raw) {
		return "", errEmptyInput
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", badRequest("字段 user_input 必须是字符串", "field user_input must be a string")
	}
	return text, nil
}

// falsy reports whether Python would take the JSON value for false.
func falsy(raw json.RawMessage) bool {
	switch s := strings.TrimSpace(string(raw)); s[0] {
	case 'n', 'f':
		return true
	case '"':
		return s == `""`
	case '[', '{':
		return strings.TrimSpace(s[1:len(s)-1]) == ""
	case 't':
		return false
	default: // a number: zero if its digits before an exponent are
		mantissa, _, _ := strings.Cut(strings.ToLower(s), "e")
		return strings.Trim(mantissa, "-0.") == ""
	}
}

// pythonInt is int(value) of a JSON value; false where int raises an error.
func pythonInt(raw json.RawMessage) (*big.Int, bool) {
	s := strings.TrimSpace(string(raw))
	switch s[0] {
	case 't':
		return big.NewInt(1), true
	case 'f':
		return new(big.Int), true
	case '"':
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return nil, false
		}
		return pythonDigits(text)
	case 'n', '[', '{':
		return nil, false
	}
	if !strings.ContainsAny(s, ".eE") {
		return pythonDigits(s)
	}
	var v float64
	if json.Unmarshal(raw, &v) != nil { // beyond float64: Python has infinity, of which it makes no integer
		return nil, false
	}
	i, _ := big.NewFloat(v).Int(nil)
	return i, true
}

// pythonDigits is int(s) of a string: white space around it, a sign, decimal digits of any script (a Chinese input
// method may well give full-width ones), single underscores between them.
func pythonDigits(s string) (*big.Int, bool) {
	s = strings.TrimSpace(s)
	digits := []byte{}
	if s != "" && (s[0] == '-' || s[0] == '+') {
		digits, s = append(digits, s[0]), s[1:]
	}
	previous := '_'
	for _, r := range s {
		d, ok := digit(r)
		switch {
		case ok:
			digits = append(digits, '0'+d)
		case r != '_' || previous == '_':
			return nil, false
		}
		previous = r
	}
	const pythonLimit = 4300 // sys.get_int_max_str_digits
	if previous == '_' || len(digits) > pythonLimit {
		return nil, false
	}
	return new(big.Int).SetString(string(digits), 10)
}

// digit is the value of a decimal digit of any script. Unicode keeps such digits in runs from 0 to 9.
func digit(r rune) (byte, bool) {
	if r < 0x80 {
		return byte(r - '0'), '0' <= r && r <= '9'
	}
	for _, run := range unicode.Nd.R16 {
		if rune(run.Lo) <= r && r <= rune(run.Hi) {
			return byte((r - rune(run.Lo)) % 10), true
		}
	}
	for _, run := range unicode.Nd.R32 {
		if rune(run.Lo) <= r && r <= rune(run.Hi) {
			return byte((r - rune(run.Lo)) % 10), true
		}
	}
	return 0, false
}

// unquote decodes a JSON string that was read before.
func unquote(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s)
	return s
}
