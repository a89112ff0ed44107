package completion

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"chulengo/tokenizer"
)

// Render gives the ids of a request's prompt. Errors are *Error.
func (c *Core) Render(ctx context.Context, r *Request) ([]int32, error) {
	var g gallery
	ids, err := c.prompt(ctx, r, &g)
	if err != nil {
		return nil, err
	}
	ids, _, err = g.expand(c, ids)
	return ids, err
}

// prompt renders what the model is to continue, with one token for each of the pictures that it puts into g.
func (c *Core) prompt(ctx context.Context, r *Request, g *gallery) ([]int32, error) {
	switch {
	case r.Messages != nil:
		return c.chat(ctx, r, g)
	case r.IDs != nil:
		return r.IDs, nil
	}
	t := c.model.Tokenizer()
	ids := t.EncodeAllowing(r.Text, func(string, int32) bool { return true })
	if bos := t.BOS(); bos >= 0 && !r.NoBOS && (len(ids) == 0 || ids[0] != bos) {
		ids = append([]int32{bos}, ids...)
	}
	return ids, nil
}

// chat renders messages through the chat template.
func (c *Core) chat(ctx context.Context, r *Request, g *gallery) ([]int32, error) {
	chat := tokenizer.Chat{NoGenerationPrompt: r.NoGenerationPrompt || r.ContinueFinal}
	if len(r.Messages) == 0 {
		return nil, Invalid("messages", "至少要有一条消息", "want at least one message")
	}
	for i, m := range r.Messages {
		rendered, err := m.render(ctx, c, i, g)
		if err != nil {
			return nil, err
		}
		chat.Messages = append(chat.Messages, rendered)
	}
	if r.ToolChoice.Mode != ToolNone {
		for _, tool := range r.Tools {
			if tool.Definition == nil {
				tool = NewTool(tool.Name, "", tool.Parameters)
			}
			chat.Tools = append(chat.Tools, tool.Definition)
		}
	}
	ids, err := c.model.Template().Render(chat)
	if err != nil {
		return nil, &Error{Kind: KindInvalid, Param: "messages", ZH: "聊天模板不接受这些消息：" + err.Error(),
			EN: "the chat template does not take these messages: " + err.Error(), Cause: err}
	}
	if r.ContinueFinal {
		return c.open(r, ids)
	}
	return ids, nil
}

// open takes the end of the last turn off a rendered chat.
func (c *Core) open(r *Request, ids []int32) ([]int32, error) {
	last := r.Messages[len(r.Messages)-1]
	if last.Role != RoleAssistant || len(last.Calls) > 0 {
		return nil, Invalid("continue_final_message", "最后一条消息必须是助手的文字", "the last message must be a text of the assistant's")
	}
	for i := len(ids) - 1; i >= 0; i-- {
		if c.stops[ids[i]] {
			return ids[:i], nil
		}
	}
	return nil, Invalid("continue_final_message", "这个模型的聊天模板不给消息加结束标记", "this model's chat template does not mark the end of a message")
}

// render gives message number n as the template takes it; its pictures go into g.
func (m *Message) render(ctx context.Context, c *Core, n int, g *gallery) (tokenizer.Message, *Error) {
	out := tokenizer.Message{Role: m.Role}
	for i, part := range m.Parts {
		rendered, err := g.part(ctx, c, contentParam(n, i), part)
		if err != nil {
			return out, err
		}
		out.Content = append(out.Content, rendered)
	}
	for i, call := range m.Calls {
		arguments := strings.TrimSpace(call.Arguments)
		if arguments == "" {
			arguments = "{}"
		}
		if !json.Valid([]byte(arguments)) {
			return out, Invalid(fmt.Sprintf("messages[%d].tool_calls[%d].function.arguments", n, i), "应为 JSON 文本", "want the text of a JSON value")
		}
		out.HasToolCalls = true
		out.ToolCalls = append(out.ToolCalls, tokenizer.ToolCall{Name: call.Name, Arguments: json.RawMessage(arguments)})
	}
	return out, nil
}
