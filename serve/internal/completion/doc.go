// Package completion answers chats and continues texts, whatever the protocol: /v1/chat/completions, /v1/responses,
// Anthropic's messages and Ollama's chats are thin translations onto it.
//
// # Words
//
// A Request is what a client wants, with the protocol's names taken away. Core.Prepare checks it, renders its prompt
// and gives a Job; Job.Run lets the model speak and reports Events while it does. A request may ask for several
// choices: answers drawn from one prompt, which is read once. An Answer is all of them, with what they cost.
//
// # Errors
//
// Whatever a client may read is an *Error: a kind, which the protocols turn into their own status and type, and a
// sentence in both languages. Param names the field of the request in the spelling of OpenAI's API, with a path
// (messages[1].content[0].type); protocols with other names translate it. Errors of Prepare, and of Run before its
// first event, leave a response uncommitted, so that they arrive with their status: the engine refuses a request when
// its queue is full before it takes it.
//
// # Life
//
// Run ends within one step of the device when its context does, while the prompt is read too. Host is what the server
// lends to the protocols: the model once it is there, and a place among the running answers that a graceful end waits
// for.
package completion
