// Package responses speaks OpenAI's Responses API as a thin translation onto package completion:
//
//	POST /v1/responses        an answer, whole or as named events
//	GET  /v1/responses/{id}   404: nothing is kept
//
// It is stateless: what a client wants remembered it sends again as input items, and store: true, previous_response_id,
// conversation and background are refused by name. Items of the input are messages, function calls and their outputs;
// reasoning items of other models are left out. Tools are functions. Errors have OpenAI's shape.
package responses
