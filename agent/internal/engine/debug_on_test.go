//go:build dunlindebug

package engine_test

const debugBuild = true
