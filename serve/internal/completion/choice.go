package completion

import (
	"strings"

	"chulengo/engine"
)

// choice collects one answer while it is generated.
type choice struct {
	Choice
	job       *Job
	index     int
	text      strings.Builder // of the answer
	raw       strings.Builder // of the engine's events
	generated int
}

func newChoice(j *Job, index int) *choice {
	return &choice{job: j, index: index}
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

// say adds text to the answer and to an event.
func (c *choice) say(event *Event, text string) {
	c.text.WriteString(text)
	event.Text += text
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
