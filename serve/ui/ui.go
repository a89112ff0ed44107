// Package ui is the chat page: plain HTML, CSS and JavaScript modules, embedded as they are. It asks no host but the one
// that served it. static/vendor holds the libraries that it uses, unchanged but for source-map lines, and
// packed by gzip -9n; vendor.sum there pins what is in them.
//
// The page's modules:
//
//	app.js            wiring, and the controls
//	chat.js           the conversation: asking, answering, stopping, versions
//	messages.js       messages on the page, and what can be done with them
//	pictures.js       what goes with the next question
//	markdown.js       what a model wrote, made safe
//	maths.js          formulas in it
//	copy.js           the clipboard
//	conversations.js  the list, and the search
//	transfer.js       export and import
//	numbers.js        progress, speed, how full the context is
//	settings.js       what questions are asked with, and presets
//	status.js         the model's state
//	keys.js           shortcuts
//	notice.js         what is said beside the messages
//	theme.js          light and dark
//	texts.js          texts in the reader's language: zh.js, en.js
//	api.js            the server's routes and its event stream
package ui

import "embed"

// FS has index.html, in which {{ chat_id }} is to be filled in, and static.
//
//go:embed index.html static
var FS embed.FS
