package responses

import (
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/sse"
)

// stream writes a response's events. Each has its name twice and a number; items come one after the other.
type stream struct {
	*sse.Writer
	*response
	begun bool
	next  int // sequence number

	open  string // type of the open item; "": none
	item  string // its id
	text  string // of the open message
	probs []completion.Token
	early []completion.Token // whose text is not certain yet
	call  completion.Call    // the open one
	index int                // of the open call in its answer
	err   error              // the first that writing gave
}

func (s *stream) send(event string, f fields) {
	if s.err != nil {
		return
	}
	f["type"], f["sequence_number"] = event, s.next
	s.next++
	s.err = s.Send(event, f)
}

// within sends an event of the open item.
func (s *stream) within(event string, f fields) {
	f["item_id"], f["output_index"] = s.item, len(s.output)
	s.send(event, f)
}

func (s *stream) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.send("response.created", fields{"response": s.json()})
	s.send("response.in_progress", fields{"response": s.json()})
}

// close ends the open item.
func (s *stream) close(status string) {
	var item fields
	switch s.open {
	case "":
		return
	case "message":
		part := textPart(s.text, logProbs(s.probs))
		s.within("response.output_text.done", fields{"content_index": 0, "text": s.text, "logprobs": logProbs(s.probs)})
		s.within("response.content_part.done", fields{"content_index": 0, "part": part})
		item = messageItem(s.item, status, s.text, logProbs(s.probs))
	case "function_call":
		s.within("response.function_call_arguments.done", fields{"name": s.call.Name, "arguments": s.call.Arguments})
		item = callItem(s.item, status, s.call)
	}
	s.send("response.output_item.done", fields{"output_index": len(s.output), "item": item})
	s.output = append(s.output, item)
	s.open = ""
}

// start opens an item after the one that is open.
func (s *stream) start(kind string) {
	s.close("completed")
	s.open = kind
	if kind == "function_call" {
		s.item = newID("fc_")
		s.send("response.output_item.added", fields{"output_index": len(s.output), "item": callItem(s.item, "in_progress", s.call)})
		return
	}
	s.item, s.text, s.probs = newID("msg_"), "", nil
	s.send("response.output_item.added", fields{"output_index": len(s.output), "item": messageItem(s.item, "in_progress", "", nil)})
	s.within("response.content_part.added", fields{"content_index": 0, "part": textPart("", []fields{})})
}

func (s *stream) event(e completion.Event) error {
	s.begin()
	s.early = append(s.early, e.Tokens...)
	if e.Text != "" {
		if s.open != "message" {
			s.start("message")
		}
		s.text += e.Text
		s.probs = append(s.probs, s.early...)
		s.within("response.output_text.delta", fields{"content_index": 0, "delta": e.Text, "logprobs": logProbs(s.early)})
		s.early = nil
	}
	for _, piece := range e.Calls {
		if piece.ID != "" || s.open != "function_call" || s.index != piece.Index {
			s.close("completed")
			s.call, s.index = completion.Call{ID: piece.ID, Name: piece.Name}, piece.Index
			s.start("function_call")
		}
		if piece.Arguments != "" {
			s.call.Arguments += piece.Arguments
			s.within("response.function_call_arguments.delta", fields{"delta": piece.Arguments})
		}
	}
	return s.err
}

// end tells how the answer ended.
func (s *stream) end(answer *completion.Answer) {
	s.begin()
	s.ended(answer)
	if s.open == "" && len(s.output) == 0 { // an empty answer is a message, too
		s.status = ""
		s.start("message")
	}
	s.ended(answer)
	s.close(s.status)
	s.send("response."+s.status, fields{"response": s.json()})
}

// fail tells that there will be no more.
func (s *stream) fail(message string) {
	s.status, s.failure = "failed", message
	s.close("incomplete")
	s.send("response.failed", fields{"response": s.json()})
}
