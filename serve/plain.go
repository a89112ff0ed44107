package serve

import (
	"embed"
	"io/fs"
)

//go:embed plain
var plain embed.FS

// embeddedUI is the page where Options name none.
var embeddedUI, _ = fs.Sub(plain, "plain")
