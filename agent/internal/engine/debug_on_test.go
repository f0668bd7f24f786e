//go:build dunlindebug

package engine

// DebugBuild: every use of a handle runs the collector, and misuse panics.
const (
	DebugBuild = true
	debugOne   = 1
)
