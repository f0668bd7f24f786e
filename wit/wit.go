// Package wit is the guest contract: the worlds of a handler (handler.wit) and every package that they name (deps).
//
// The WIT of a standard package is a list of signatures, exact to the last name, because components are linked by them;
// only the comments are ours. A version that toolchains need and that differs only in its patch number (wasi:http@0.2.10)
// is made from the one here by replacing the number: WASI 0.2 grew by whole functions only, and imports are matched by
// semver.
package wit

import (
	"embed"
	"io/fs"
)

//go:embed *.wit deps
var files embed.FS

// FS holds the tree as WIT tools expect it: "handler.wit" and "deps/<package>@<version>/<package>.wit".
func FS() fs.FS { return files }
