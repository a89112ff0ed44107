package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Engine names an implementation of byte-pair merging.
type Engine int

const (
	Linear        Engine = iota // ours, in linear time
	GoTokenizers                // github.com/nlpodyssey/gotokenizers: quadratic on long pieces, for comparison
	enginesNumber               // how many there are
)

// Options of LoadWith. The zero value is what Load uses.
type Options struct {
	Engine Engine
}

// Load reads the tokenizer of a checkpoint directory: tokenizer.json (Hugging Face) with tokenizer_config.json and
// chat_template.jinja beside it where they exist, or else Meta's tokenizer.model. With neither file the error wraps
// fs.ErrNotExist.
func Load(fsys fs.FS) (*Tokenizer, error) { return LoadWith(fsys, Options{}) }

// LoadWith is Load with options.
func LoadWith(fsys fs.FS, o Options) (*Tokenizer, error) {
	if o.Engine < 0 || o.Engine >= enginesNumber {
		return nil, fmt.Errorf("tokenizer: engine %d does not exist", o.Engine)
	}
	name := "tokenizer.json"
	text, err := fs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		name = "tokenizer.model"
		if text, err = fs.ReadFile(fsys, name); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("tokenizer: neither tokenizer.json nor tokenizer.model: %w", fs.ErrNotExist)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	var t *Tokenizer
	if name == "tokenizer.json" {
		t, err = parseJSON(text)
	} else {
		t, err = parseRanks(text)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", name, err)
	}
	if err := t.loadConfig(fsys); err != nil {
		return nil, err
	}
	if o.Engine == GoTokenizers {
		if t.model, err = newGoTokenizersModel(t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// loadConfig reads what tokenizer_config.json and chat_template.jinja say: the begin-of-text token and the template.
func (t *Tokenizer) loadConfig(fsys fs.FS) error {
	bos := "<|begin_of_text|>"
	text, err := fs.ReadFile(fsys, "tokenizer_config.json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("tokenizer: %w", err)
	default:
		var config struct {
			BOS      json.RawMessage `json:"bos_token"`
			Template json.RawMessage `json:"chat_template"`
		}
		if err := json.Unmarshal(text, &config); err != nil {
			return fmt.Errorf("tokenizer: tokenizer_config.json: %w", err)
		}
		if name, err := tokenName(config.BOS); err != nil {
			return fmt.Errorf("tokenizer: tokenizer_config.json: bos_token: %w", err)
		} else if name != "" {
			if _, ok := t.special[name]; !ok {
				return fmt.Errorf("tokenizer: tokenizer_config.json: bos_token: %q is not a special token", name)
			}
			bos = name
		}
		if err := t.setTemplate(config.Template); err != nil {
			return fmt.Errorf("tokenizer: tokenizer_config.json: chat_template: %w", err)
		}
	}
	if id, ok := t.special[bos]; ok {
		t.bos = id
	}
	switch text, err := fs.ReadFile(fsys, "chat_template.jinja"); {
	case err == nil:
		t.template, t.hasTemplate = string(text), true
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("tokenizer: %w", err)
	}
	return nil
}

// tokenName reads a token of tokenizer_config.json: null, its name, or an object with the name as content.
func tokenName(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return name, nil
	}
	var object struct{ Content *string }
	if err := json.Unmarshal(raw, &object); err != nil || object.Content == nil {
		return "", fmt.Errorf("want a string or an object with content, got %.80s", raw)
	}
	return *object.Content, nil
}

// setTemplate reads chat_template: null, the template, or a list of named ones, of which "default" is taken.
func (t *Tokenizer) setTemplate(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, &t.template) == nil {
		t.hasTemplate = true
		return nil
	}
	var named []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &named); err != nil {
		return fmt.Errorf("want a string or a list of named templates, got %.80s", raw)
	}
	for _, n := range named {
		if n.Name == "default" {
			t.template, t.hasTemplate = n.Template, true
		}
	}
	return nil
}
