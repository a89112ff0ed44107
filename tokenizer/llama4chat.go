package tokenizer

import (
	"errors"
	"fmt"
	"strings"
)

// NativeTemplate is Llama 4's chat format, as the template in the model's repository writes it:
//
//	<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|><|header_start|>assistant<|header_end|>\n\n
//
// A first system message is trimmed. Tools are described at the beginning of the first message behind it, which is
// trimmed too and always the user's. Calls follow <|python_start|>content<|python_end|>; results are JSON, a text
// result too. An assistant's turn whose list of calls is there but empty is left out.
//
// Where that template fails, this one does what was meant: a system message or, with tools, a first message of several
// parts joins them, and a message without content is empty.
func (t *Tokenizer) NativeTemplate() ChatTemplate { return llama4Chat{t} }

type llama4Chat struct{ t *Tokenizer }

// Render implements ChatTemplate.
func (n llama4Chat) Render(c Chat) ([]int32, error) {
	p, err := renderLlama4(c)
	if err != nil {
		return nil, err
	}
	return p.ids(n.t)
}

// Text implements ChatTemplate.
func (n llama4Chat) Text(c Chat) (string, error) {
	p, err := renderLlama4(c)
	return p.String(), err
}

const (
	llama4ToolsIntro = "Given the following functions, please respond with a JSON for a function call " +
		"with its proper arguments that best answers the given prompt.\n\n" +
		`Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.` +
		"Do not use variables.\n\n"
	llama4ToolsSystem = "Environment: ipython\n"
)

func renderLlama4(c Chat) (prompt, error) {
	var p prompt
	messages := c.Messages
	if len(messages) == 0 {
		return nil, errors.New("tokenizer: chat: there are no messages")
	}
	p.special("<|begin_of_text|>")
	at := 0 // index of messages[0] in the chat, for errors
	if messages[0].Role == "system" {
		p.header("system")
		if len(c.Tools) > 0 {
			p.write(llama4ToolsSystem)
		}
		if err := p.trimmed(messages[0]); err != nil {
			return nil, inMessage(at, err)
		}
		p.special("<|eot|>")
		messages, at = messages[1:], 1
	}
	if len(c.Tools) > 0 {
		if len(messages) == 0 {
			return nil, errors.New("tokenizer: chat: tools are described in the first user message, but there is none")
		}
		p.header("user")
		p.write(llama4ToolsIntro)
		for i, tool := range c.Tools {
			text, err := pythonJSON(tool, 4)
			if err != nil {
				return nil, fmt.Errorf("tokenizer: chat: tool %d: %w", i, err)
			}
			p.write(text + "\n\n")
		}
		if err := p.trimmed(messages[0]); err != nil {
			return nil, inMessage(at, err)
		}
		p.special("<|eot|>")
		messages, at = messages[1:], at+1
	}
	for i, m := range messages {
		if err := p.message(m); err != nil {
			return nil, inMessage(at+i, err)
		}
	}
	if !c.NoGenerationPrompt {
		p.header("assistant")
	}
	return p, nil
}

func inMessage(i int, err error) error { return fmt.Errorf("tokenizer: chat: message %d: %w", i, err) }

func (p *prompt) header(role string) {
	p.special("<|header_start|>")
	p.write(role)
	p.special("<|header_end|>")
	p.write("\n\n")
}

func (p *prompt) message(m Message) error {
	result := m.Role == "tool" || m.Role == "ipython"
	switch {
	case len(m.ToolCalls) > 0:
		p.header("assistant")
		p.special("<|python_start|>")
		if err := p.content(m.Content); err != nil {
			return err
		}
		p.special("<|python_end|>")
		for _, call := range m.ToolCalls {
			arguments, err := pythonJSON(call.Arguments, 0)
			if err != nil {
				return fmt.Errorf("arguments of the call of %q: %w", call.Name, err)
			}
			p.write(`{"name": "` + call.Name + `", "parameters": ` + arguments + "}")
		}
	case result:
		p.header("ipython")
		text, err := resultJSON(m)
		if err != nil {
			return err
		}
		p.write(text)
	case m.HasToolCalls:
		return nil
	default:
		p.header(m.Role)
		if err := p.content(m.Content); err != nil {
			return err
		}
	}
	p.special("<|eot|>")
	return nil
}

// resultJSON returns a tool's result as JSON.
func resultJSON(m Message) (string, error) {
	if len(m.Result) > 0 {
		return pythonJSON(m.Result, 0)
	}
	var text strings.Builder
	for _, part := range m.Content {
		if part.Type != "text" {
			return "", fmt.Errorf("a tool's result cannot have a part of type %q", part.Type)
		}
		text.WriteString(part.Text)
	}
	return quotePython(text.String()), nil
}

func (p *prompt) content(parts []Part) error {
	for i, part := range parts {
		switch part.Type {
		case "text":
			p.write(part.Text)
		case "image":
			p.special("<|image|>")
		default:
			return fmt.Errorf("part %d: type %q is not supported (text, image)", i, part.Type)
		}
	}
	return nil
}

// trimmed writes a message's content without the space at its ends.
func (p *prompt) trimmed(m Message) error {
	var inner prompt
	if err := inner.content(m.Content); err != nil {
		return err
	}
	for len(inner) > 0 && !inner[0].special {
		if inner[0].text = strings.TrimLeftFunc(inner[0].text, pythonSpace); inner[0].text != "" {
			break
		}
		inner = inner[1:]
	}
	for n := len(inner) - 1; n >= 0 && !inner[n].special; n-- {
		if inner[n].text = strings.TrimRightFunc(inner[n].text, pythonSpace); inner[n].text != "" {
			break
		}
		inner = inner[:n]
	}
	for _, part := range inner {
		if part.special {
			p.special(part.text)
		} else {
			p.write(part.text)
		}
	}
	return nil
}
