// Package ui is the chat page: plain HTML, CSS and JavaScript modules, embedded as they are. It asks no host but the one
// that served it. static/vendor holds the libraries that it uses, unchanged but for source-map lines; vendor.sum there
// pins them.
//
// The page's modules:
//
//	app.js            wiring: state, sending, stopping, switching conversations
//	api.js            the server's routes and its event stream
//	messages.js       messages on the page: Markdown, code, copying, following the end
//	conversations.js  the list
//	texts.js          every text, in Chinese and English
package ui

import "embed"

// FS has index.html, in which {{ chat_id }} is to be filled in, and static.
//
//go:embed index.html static
var FS embed.FS
