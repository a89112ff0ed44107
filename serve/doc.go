// Package serve is the chat server: the tutorial's HTTP routes, what the chat page needs besides, and the history.
//
// # Terms
//
// A conversation is a list of messages under an id. A round is a question (user) with its answer (assistant). A browser
// session is what one signed cookie stands for. An answer is running from the question's acceptance until its text is in
// the history; its readers are the HTTP responses that carry it.
//
// The messages of a conversation are a tree: each stands under the one that it follows. Siblings are versions at one
// place: answers to one question, questions after one answer. The active branch is the path from a first question to the
// conversation's head; clients that know of no branches see it as the history.
//
// # Routes
//
// All under Options.BasePath. Bodies are JSON objects; errors are {"error": text}, with further fields where a program
// needs numbers (n_prompt_tokens, n_ctx). Texts are Chinese, or English where ?lang=, "lang" in the body or
// Accept-Language ask for it.
//
//	GET    /                                 the page; begins a browser session
//	GET    /static/…                         its files
//	POST   /api/generate                     {user_input, chat_id, max_new_tokens, max_history_length, stream, detach,
//	                                         progress, parent, regenerate, system, temperature, top_p, top_k, min_p,
//	                                         repetition_penalty, frequency_penalty, presence_penalty, seed, images}
//	POST   /api/stop                         {chat_id} → {success, stopped}
//	POST   /api/clear_history                {chat_id} → {success, message}
//	GET    /api/status                       {state, done, total, percent, error, model, version}
//	GET    /api/conversations                ?q=words: {conversations: [{id, title, created_at, updated_at, snippet, message}]}
//	POST   /api/conversations                a new one → 201 {id, …}
//	GET    /api/conversations/{id}           {id, title, messages, head, running, elsewhere, failure}: the active branch
//	GET    /api/conversations/{id}/tree      {messages, head}: all of it
//	PUT    /api/conversations/{id}/branch    {message}: the newest branch through that message becomes the active one
//	PATCH  /api/conversations/{id}           {title}
//	DELETE /api/conversations/{id}
//	GET    /api/conversations/{id}/stream    ?from=N&progress=1: the running answer after its first N bytes; 204 if there is none
//	GET    /api/conversations/{id}/pictures/{picture}  the file of a picture that one of the messages has
//	DELETE /api/conversations/{id}/failure   forgets it
//	GET    /api/conversations/{id}/export    ?format=json or markdown
//	GET    /api/export                       the same of all the session's
//	POST   /api/import                       a JSON export → {imported, conversations, skipped: [{index, error}]}
//	GET    /api/settings                     {settings}: an object that the page keeps for its session; PUT sets it
//	POST   /api/login                        {key}, or the form's → a cookie that stands for the key; POST /api/logout ends it
//	GET    /health                           whether questions are answered: 200, or 503 with the reason, as llama-server says it
//	GET    /readyz                           the same for balancers: 503 from the moment when the server begins to end
//	GET    /version                          {version}
//	GET    /metrics                          for Prometheus: package metrics
//
// Beside them lie the protocols that programs speak. Each is a package that translates to internal/completion and has
// errors of its own shape, also for what goes wrong before a handler runs (Host, key, rate, size, unknown addresses,
// panics), in English unless Chinese is asked for:
//
//	openai     /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /apply-template, /props, /slots
//	responses  /v1/responses, stateless
//	anthropic  /v1/messages, /v1/messages/count_tokens
//	ollama     /api/chat, /api/tags, /api/show, /api/ps, /api/version, /api/pull, and /api/generate
//
// /api/generate is Ollama's where the body has no user_input, but model or prompt; else it is the tutorial's. GET / is
// the page, except for programs whose Accept takes neither HTML nor everything: they look for Ollama and find its words.
//
// Pictures come as data: addresses or base64 in the image parts of each protocol; by http(s) addresses with
// Options.FetchImages alone, at most 8 in a request, from public addresses and ports 80 and 443 only, whatever names and
// redirects say. A request has at most 64, of 32 MiB and 50 million pixels each; one that cannot be read is a 400 that
// names its field. In the page's conversations "images" are data: addresses, or ids of pictures that the conversation
// has; at most 16 with a question, in a body of 16 times Options.BodyLimit. The files are kept with the conversation,
// and part of its export. They are decoded when the prompt comes to them, and encoded once for each content.
//
// # Who may come in
//
// Every request passes internal/guard. The name in Host must be an IP address, localhost, the name in Options.Addr, or one
// of Options.AllowedHosts, so that a site whose name an attacker turned into our address is not taken for ours; other
// sites' pages may read answers where Options.Origins has them (CORS; never with cookies). With Options.APIKeys a request
// needs Authorization: Bearer KEY or x-api-key: KEY, or the cookie of a login, for which GET / shows a form; /health,
// /readyz, /version and the page's files need none. Options.RateLimit counts requests of each key, without keys of each
// address; the page's own GETs do not count. X-Forwarded-For, -Host and -Proto are believed from Options.TrustedProxies
// alone. Logs have request ids, routes and statuses; what people write is in them with Options.LogPrompts only, and keys
// never.
//
// Bodies of the page's routes have at most Options.BodyLimit bytes, those of the protocols sixteen times as many; a body
// has a minute to arrive. A body must be said to be JSON, because a browser lets any site's page send others; Ollama's
// addresses, whose users send theirs with curl -d, take bodies without that from programs that show no mark of a browser.
// An answer of the protocols ends after Options.AnswerTimeout with 504, or an error in its stream; when the engine's queue
// is full a request gets 503 with Retry-After before anything is sent.
//
// A stream is server-sent events: {"delta"}…, then {"done": true, …} or {"error"}, with comment lines in longer
// silences. An error before the first event is an ordinary response with its status. Where a model is silent for
// longer than Options.KeepAlive before its first token, the first comment commits the status, and an error after it is
// an event. With progress there are {"progress": {queue, prompt, cached, read}} before the first token, {"numbers"} now
// and then, and the ids of question and answer beside {"done": true}.
//
// # Life
//
// New opens the address, the history and the session key, so that what can fail early does. Run serves at once, while
// the model loads elsewhere: SetProgress tells how far that is, then SetReady brings the model, or Fail ends Run with
// the reason. When Run's context is over, running answers may finish, new questions get 503; Close ends it at once.
//
// # Who may use a conversation
//
// It belongs to the browser session that made it (by opening the page, or by asking in it first), if there was one.
// Lists show a session its own. A request without a session, as programs send it, needs the id alone, and an id is 122
// random bits unless its client chose another. Another browser session does not reach it even by its id: the page's
// routes and /api/generate say 404, /api/clear_history "无效的会话ID", and /api/stop stops nothing. Conversations that no
// session made are open to every client that knows the id. Requests caused by another site's page (by Sec-Fetch-Site,
// else by Origin) count as having no session.
//
// # What is kept
//
// A question and its answer join the history together, when the answer ends by itself, at max_new_tokens, or by
// POST /api/stop (finish reason stop_requested). An answer that fails, or whose client leaves (unless it asked to
// detach), leaves no trace, nor does its question. Both are written down from the beginning, and the answer about every
// second: if the process is killed, or ends before the answer does, the round is in the history when the server is
// started again, with finish reason interrupted. Rounds ended before the answer's first word are shown but are no part
// of later prompts. The history keeps everything; only prompts are cut. A detached question whose answer failed is kept
// beside the history, with the reason, until the next question or its DELETE.
//
// With Options.Database several servers share chats. A conversation in which one answers is claimed by it; each renews a
// lease, and what one that is gone left running is settled by the others when its lease runs out. Answers can be followed
// and stopped through any of them; through another one they come as they are saved.
//
// # One answer at a time
//
// In each conversation requests are answered one after the other, in order of arrival; with "detach" they get 409
// instead of waiting. Different conversations do not wait for one another here.
package serve
