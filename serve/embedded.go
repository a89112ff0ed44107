package serve

import (
	"io/fs"

	"chulengo/serve/ui"
)

// embeddedUI is the page where Options name none.
var embeddedUI fs.FS = ui.FS
