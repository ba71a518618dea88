// Package static holds the files that pages load.
package static

import "embed"

// Files are all of them. `make assets` fetches those in the folder vendor.
//
//go:embed *.* all:vendor
var Files embed.FS
