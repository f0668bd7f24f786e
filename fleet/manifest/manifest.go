// Package manifest reads dunlin.toml: what an application's author writes. It checks everything that can be checked
// without the components, and resolves it to a wire.Release. It is pure: bytes in, a value or positioned errors out.
package manifest

import "dunlin.dev/dunlin/fleet/wire"

// Manifest is a checked dunlin.toml.
type Manifest struct {
	Application string
	Version     string
	Floor       string
	Components  map[string]Component
	Triggers    wire.Triggers
}

// Component is one [component.<name>] table.
type Component struct {
	Source string         // path relative to the manifest
	Grants wire.Component // all but Digest and Size
}

// Blob is a component's digest and size in bytes.
type Blob struct {
	Digest wire.Digest
	Size   int64
}

// Error is one fault at one place: "dunlin.toml:12:9: unknown key ...".
type Error struct {
	File         string
	Line, Column int // from 1
	Text         string
}

func (e *Error) Error() string { panic("skeleton") }

// Errors are all the faults of one file, in its order.
type Errors []*Error

func (e Errors) Error() string { panic("skeleton") }

// Parse reads the manifest in b; file is its name for errors. An error is Errors.
func Parse(file string, b []byte) (*Manifest, error) { panic("skeleton") }

// Resolve gives the release that m describes, with its components' digests.
func (m *Manifest) Resolve(components map[string]Blob) (wire.Release, error) { panic("skeleton") }
