package serve

import (
	"io/fs"
	"testing/fstest"
)

// embeddedUI is the page where Options name none.
var embeddedUI fs.FS = fstest.MapFS{"index.html": {Data: []byte(`<!DOCTYPE html>
<html lang="zh"><head><meta charset="UTF-8"><title>chulengo</title></head>
<body><h1>chulengo</h1><p>POST <code>/api/generate</code></p><p id="chat-id">{{ chat_id }}</p></body></html>
`)}}
