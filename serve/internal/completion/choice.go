package completion

import (
	"strings"

	"github.com/google/uuid"

	"chulengo/engine"
	"chulengo/internal/toolcall"
)

// choice collects one answer while it is generated.
type choice struct {
	Choice
	job       *Job
	index     int
	text      strings.Builder // of the answer
	raw       strings.Builder // of the engine's events
	generated int
	parser    *toolcall.Parser // nil: text is text
	enough    bool             // the one call that the request allows is there
}

func newChoice(j *Job, index int) *choice {
	c := &choice{job: j, index: index}
	if len(j.tools) > 0 {
		c.parser = toolcall.NewParser(j.tools)
	}
	return c
}

// token takes a generated token in. ok: there is something to tell.
func (c *choice) token(e *engine.Event) (event Event, ok bool) {
	c.generated++
	c.raw.WriteString(e.Text)
	event = Event{Choice: c.index, Generated: c.generated}
	text := e.Text
	if !c.job.stops[e.ID] {
		c.IDs = append(c.IDs, e.ID)
		event.IDs = c.IDs[len(c.IDs)-1:]
		if t := c.job.core.model.Tokenizer(); c.job.request.Specials && t.IsSpecial(e.ID) {
			text += t.Name(e.ID)
		}
		if c.job.request.LogProbs {
			token := c.job.core.token(e.ID, e.LogProb)
			for _, alternative := range e.Top {
				token.Top = append(token.Top, c.job.core.token(alternative.ID, alternative.LogProb))
			}
			c.Tokens = append(c.Tokens, token)
			event.Tokens = c.Tokens[len(c.Tokens)-1:]
		}
	}
	c.say(&event, text)
	return event, event.Text != "" || len(event.Calls) > 0 || event.IDs != nil
}

// say adds text to the answer and to an event; calls in it become calls.
func (c *choice) say(event *Event, text string) {
	if c.parser == nil {
		c.text.WriteString(text)
		event.Text += text
		return
	}
	c.hear(event, c.parser.Write(text))
}

// hear takes in what the parser made of the text.
func (c *choice) hear(event *Event, deltas []toolcall.Delta) {
	for _, d := range deltas {
		c.text.WriteString(d.Text)
		event.Text += d.Text
		if d.Begin == nil && d.Arguments == "" && !d.End || c.enough {
			continue
		}
		if d.Begin != nil {
			id := d.Begin.ID
			if id == "" {
				id = "call_" + strings.ReplaceAll(uuid.NewString(), "-", "")
			}
			c.Calls = append(c.Calls, Call{ID: id, Name: d.Begin.Name})
			event.Calls = append(event.Calls, CallDelta{Index: len(c.Calls) - 1, ID: id, Name: d.Begin.Name})
		}
		last := len(c.Calls) - 1 // calls come one after the other
		if d.Arguments != "" {
			c.Calls[last].Arguments += d.Arguments
			if n := len(event.Calls); n > 0 && event.Calls[n-1].Index == last {
				event.Calls[n-1].Arguments += d.Arguments
			} else {
				event.Calls = append(event.Calls, CallDelta{Index: last, Arguments: d.Arguments})
			}
		}
		c.enough = d.End && c.job.request.NoParallelCalls
	}
}

// end gives the choice's last event.
func (c *choice) end(result *engine.Result) Event {
	event := Event{Choice: c.index, Generated: c.generated}
	if !c.job.request.OnlyPrompt {
		// Text at the end that no event had: what might have become a stop string.
		if rest, ok := strings.CutPrefix(result.Text, c.raw.String()); ok {
			c.say(&event, rest)
		}
	}
	c.End = End{Finish: FinishStop, StopID: result.StopID, StopText: result.StopText}
	if c.job.request.KeepStop {
		c.say(&event, result.StopText)
	}
	if result.Finish == engine.FinishLength {
		c.End.Finish = FinishLength
	}
	if c.parser != nil {
		c.hear(&event, c.parser.Close())
	}
	if len(c.Calls) > 0 && c.End.Finish == FinishStop {
		c.End.Finish = FinishToolCalls
	}
	c.Text = c.text.String()
	event.End = &c.End
	return event
}

// token describes a token.
func (c *Core) token(id int32, logProb float32) Token {
	t := c.model.Tokenizer()
	bytes := t.Bytes(id)
	token := Token{ID: id, Bytes: bytes, LogProb: float64(logProb), Text: strings.ToValidUTF8(string(bytes), "\uFFFD")}
	if bytes == nil {
		token.Text = t.Name(id)
	}
	return token
}
