// Package openai is OpenAI's chat and completion API, with the fields that vLLM's and llama-server's clients send, and
// the helpers that those clients probe. It translates; package completion answers.
//
// # Routes
//
//	POST /v1/chat/completions
//	POST /v1/completions
//	GET  /v1/models, /v1/models/{id}
//	POST /tokenize          vLLM's {prompt | messages} and llama-server's {content} → the union of their answers
//	POST /detokenize        {tokens} → {content, prompt}
//	POST /apply-template    {messages, …} → {prompt}
//	GET  /props, /slots     llama-server's; slots are 501: sequences have no fixed places here
//
// # Requests
//
// null means that a field is absent. Unknown fields are ignored and logged once. Fields that are there have to be right:
// a wrong type or value is a 400 whose param is the field's path. max_completion_tokens beats max_tokens beats n_predict;
// a prompt that does not fit, alone or with the answer asked for, is a 400 with the numbers.
//
// # Streams
//
// One token is one chunk, except that a token whose text is not certain yet (half a character, the beginning of a stop
// string or of a tool call) waits for the next one, unless logprobs or token ids were asked for. The role travels with
// the first token; the last chunk of a choice has an empty delta and the finish_reason. Usage is a chunk of its own without
// choices, with stream_options.include_usage, and on every chunk with continuous_usage_stats. A failure after the first
// chunk is a frame with "error", and the stream ends with [DONE] as always.
//
// # Logprobs
//
// They precede temperature and filters. −∞ is -9999. The id that ends an answer is not among the tokens, so that their
// bytes together are the text, unless a stop string cut it; usage counts that id.
//
// # Reproducibility
//
// The same request with the same seed gives the same tokens, whatever else runs, as long as system_fingerprint is the
// same: it names the program's version and the checkpoint.
package openai
