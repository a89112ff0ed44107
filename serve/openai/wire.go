package openai

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"chulengo/serve/internal/completion"
)

// head is what all objects of one answer have in common.
type head struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint"`
}

// usage counts tokens.
type usage struct {
	Prompt     int            `json:"prompt_tokens"`
	Completion int            `json:"completion_tokens"`
	Total      int            `json:"total_tokens"`
	Details    *promptDetails `json:"prompt_tokens_details,omitempty"`
}

type promptDetails struct {
	Cached int `json:"cached_tokens"`
}

func usageOf(u completion.Usage) *usage {
	return &usage{u.Prompt, u.Generated, u.Prompt + u.Generated, &promptDetails{u.Cached}}
}

// timings are llama-server's, which several pages show.
type timings struct {
	CacheN              int     `json:"cache_n"`
	PromptN             int     `json:"prompt_n"`
	PromptMS            float64 `json:"prompt_ms"`
	PromptPerTokenMS    float64 `json:"prompt_per_token_ms"`
	PromptPerSecond     float64 `json:"prompt_per_second"`
	PredictedN          int     `json:"predicted_n"`
	PredictedMS         float64 `json:"predicted_ms"`
	PredictedPerTokenMS float64 `json:"predicted_per_token_ms"`
	PredictedPerSecond  float64 `json:"predicted_per_second"`
	QueueMS             float64 `json:"queue_ms"`
}

func timingsOf(a *completion.Answer) *timings {
	u, t := a.Usage, a.Timings
	out := &timings{CacheN: u.Cached, PromptN: u.Prompt - u.Cached, PredictedN: u.Generated,
		PromptMS: milliseconds(t.Prefill), PredictedMS: milliseconds(t.Decode), QueueMS: milliseconds(t.Queue)}
	out.PromptPerTokenMS, out.PromptPerSecond = rates(out.PromptN, t.Prefill)
	out.PredictedPerTokenMS, out.PredictedPerSecond = rates(out.PredictedN, t.Decode)
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rates gives the milliseconds of one of n and how many there are in a second; 0 where there is nothing to divide.
func rates(n int, d time.Duration) (each, perSecond float64) {
	if n == 0 || d <= 0 {
		return 0, 0
	}
	return milliseconds(d) / float64(n), float64(n) / d.Seconds()
}

// toolCallObject is a call, or a piece of one in a stream.
type toolCallObject struct {
	Index    *int         `json:"index,omitempty"` // in streams
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

// chatLogProbs are the tokens of a chat's answer.
type chatLogProbs struct {
	Content []chatToken `json:"content"`
	Refusal []chatToken `json:"refusal"`
}

type chatToken struct {
	alternative
	Top []alternative `json:"top_logprobs"`
}

type alternative struct {
	Token   string  `json:"token"`
	ID      int32   `json:"id"`
	LogProb logProb `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// logProb is a logarithm on the wire: JSON has no infinity, and -9999 is vLLM's word for it.
type logProb float64

func (l logProb) MarshalJSON() ([]byte, error) {
	switch v := float64(l); {
	case math.IsNaN(v):
		return []byte("null"), nil
	case v < -9999:
		return []byte("-9999.0"), nil
	default:
		return json.Marshal(v)
	}
}

func alternativeOf(t completion.Token) alternative {
	a := alternative{Token: t.Text, ID: t.ID, LogProb: logProb(t.LogProb)}
	for _, b := range t.Bytes {
		a.Bytes = append(a.Bytes, int(b))
	}
	return a
}

func chatTokens(tokens []completion.Token) *chatLogProbs {
	out := &chatLogProbs{Content: []chatToken{}}
	for _, t := range tokens {
		token := chatToken{alternativeOf(t), []alternative{}}
		for _, other := range t.Top {
			token.Top = append(token.Top, alternativeOf(other))
		}
		out.Content = append(out.Content, token)
	}
	return out
}

// textLogProbs are the tokens of a completion, in columns.
type textLogProbs struct {
	Tokens   []string             `json:"tokens"`
	LogProbs []logProb            `json:"token_logprobs"`
	Top      []map[string]logProb `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"` // in characters of the choice's text
}

// textTokens gives the columns; offset is where the first token begins.
func textTokens(tokens []completion.Token, offset int) *textLogProbs {
	out := &textLogProbs{Tokens: []string{}, LogProbs: []logProb{}, Top: []map[string]logProb{}, Offsets: []int{}}
	for _, t := range tokens {
		out.Tokens = append(out.Tokens, t.Text)
		out.LogProbs = append(out.LogProbs, logProb(t.LogProb))
		var top map[string]logProb
		if !math.IsNaN(t.LogProb) {
			top = map[string]logProb{t.Text: logProb(t.LogProb)}
			for _, other := range t.Top {
				if _, ok := top[other.Text]; !ok { // different bytes may look alike: the likelier stays
					top[other.Text] = logProb(other.LogProb)
				}
			}
		}
		out.Top = append(out.Top, top)
		out.Offsets = append(out.Offsets, offset)
		offset += shown(t)
	}
	return out
}

// shown is how many characters of the text a token stands for.
func shown(t completion.Token) int {
	if t.Bytes == nil {
		return 0
	}
	return utf8.RuneCountInString(t.Text)
}

// promptTokens is vLLM's list: for each token of the prompt the ids with their log-probabilities, null for the first.
func promptTokens(tokens []completion.PromptToken) []map[string]promptToken {
	out := make([]map[string]promptToken, 0, len(tokens))
	for _, t := range tokens {
		if math.IsNaN(t.LogProb) {
			out = append(out, nil)
			continue
		}
		at := map[string]promptToken{strconv.Itoa(int(t.ID)): {LogProb: logProb(t.LogProb), Text: t.Text}}
		for i, other := range t.Top {
			rank := i + 1
			at[strconv.Itoa(int(other.ID))] = promptToken{logProb(other.LogProb), &rank, other.Text}
		}
		out = append(out, at)
	}
	return out
}

type promptToken struct {
	LogProb logProb `json:"logprob"`
	Rank    *int    `json:"rank"` // among all tokens; null where it lies beyond those asked for
	Text    string  `json:"decoded_token"`
}

// stopReason is what ended an answer: the stop string, or the stop id if the request named it.
func stopReason(e *completion.End, r *completion.Request) any {
	if e.StopText != "" {
		return e.StopText
	}
	for _, id := range r.StopIDs {
		if id == e.StopID {
			return id
		}
	}
	return nil
}
