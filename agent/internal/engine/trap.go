package engine

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unsafe"
)

// Trap is how guest code ended other than by returning.
type Trap struct {
	Code      TrapCode
	Message   string   // wasmtime's one-line reason
	Backtrace []string // the guest's frames, innermost first: "module!function", and " at file:line:column" with Config.SourceLines
	Err       error    // the host function's error, or the ctx's cause for TrapInterrupt
}

// TrapCode sorts traps by who is to blame.
type TrapCode uint8

// The codes of a Trap.
const (
	TrapOther TrapCode = iota
	TrapUnreachable
	TrapInterrupt
	TrapMemory // memory limit or out of bounds
	TrapStack
	TrapHost // a host function returned an error or panicked
)

func (t *Trap) Error() string {
	b := new(strings.Builder)
	switch t.Code {
	case TrapInterrupt:
		b.WriteString("guest interrupted: ")
	case TrapHost:
		b.WriteString("guest ended by host: ")
	default:
		b.WriteString("guest trapped: ")
	}
	b.WriteString(t.Message)
	if t.Err != nil {
		fmt.Fprintf(b, ": %v", t.Err)
	}
	if len(t.Backtrace) > 0 {
		fmt.Fprintf(b, " (in %s)", t.Backtrace[0])
	}
	return b.String()
}

func (t *Trap) Unwrap() error { return t.Err }

// cError is a wasmtime error, taken over and freed.
type cError struct {
	text   string
	frames []string
}

func takeError(err *C.wasmtime_error_t) *cError {
	if err == nil {
		return nil
	}
	var buf C.dunlin_buf
	C.dunlin_error_take(err, &buf)
	defer C.dunlin_buf_free(&buf)
	d := decoder{b: unsafe.Slice((*byte)(buf.data), buf.len)}
	e := &cError{text: strings.ToValidUTF8(d.text(), "\uFFFD")}
	for n := d.u32(); n > 0 && d.err == nil; n-- {
		module, function, index := d.text(), d.text(), d.u32()
		if module == "" {
			module = "<unknown>"
		}
		if function == "" {
			function = fmt.Sprintf("<wasm function %d>", index)
		}
		e.frames = append(e.frames, module+"!"+function)
	}
	if lines := sourceLines(e.text); len(lines) == len(e.frames) {
		for i, at := range lines {
			e.frames[i] += at
		}
	}
	return e
}

var frameNumber = regexp.MustCompile(`^ +\d+: +0x[0-9a-f]+ - `)

// sourceLines are the places of the frames in wasmtime's text, each " at file:line:column" or "": only the text has them. A frame
// into which others were inlined has the innermost one's.
func sourceLines(text string) (lines []string) {
	_, trace, _ := strings.Cut(text, "error while executing at wasm backtrace:\n")
	for line := range strings.Lines(trace) {
		at, isPlace := strings.CutPrefix(strings.TrimSpace(line), "at ")
		switch {
		case frameNumber.MatchString(line):
			lines = append(lines, "")
		case isPlace && len(lines) > 0 && lines[len(lines)-1] == "":
			lines[len(lines)-1] = " at " + at
		}
	}
	return lines
}

var causeNumber = regexp.MustCompile(`^\d+: `)

// causes are the error's chain, outermost first, without wasmtime's backtrace text.
func (e *cError) causes() []string {
	head, rest, _ := strings.Cut(e.text, "Caused by:")
	var chain []string
	if !strings.HasPrefix(head, "error while executing at wasm backtrace:") {
		chain = append(chain, strings.Join(strings.Fields(head), " "))
	}
	for line := range strings.Lines(rest) {
		line = causeNumber.ReplaceAllString(strings.TrimSpace(line), "")
		if line != "" && !strings.HasPrefix(line, "error while executing at wasm backtrace:") {
			chain = append(chain, line)
		}
	}
	return chain
}

func (e *cError) oneLine() string { return strings.Join(e.causes(), ": ") }

// trapCodes by the words of wasmtime's Trap, which the C API gives for components in text only.
var trapCodes = map[string]TrapCode{
	"wasm `unreachable` instruction executed": TrapUnreachable,
	"out of bounds memory access":             TrapMemory,
	"allocation size too large":               TrapMemory,
	"call stack exhausted":                    TrapStack,
	"interrupt":                               TrapInterrupt,
}

// ours are the starts of errors that wasmtime gives before it enters a guest: the arguments don't fit.
var ours = []string{ownProblem, "type mismatch", "expected ", "payload ", "did not expect ", "enum variant name ", "unknown flag", "unknown variant",
	"mismatched resource types", "unknown handle index"}

// ownProblem starts the messages that the C side of this package makes.
const ownProblem = "dunlin: "

// failure turns what a call into wasmtime gave into this package's error. What linking gives without a frame is no guest's doing.
func (s *Store) failure(doing string, linking bool, e *cError) error {
	hostErr, hostName := s.hostErr, s.hostName
	s.hostErr, s.hostName = nil, ""
	if e == nil {
		return nil
	}
	chain := e.causes()
	root := ""
	if len(chain) > 0 {
		root = chain[len(chain)-1]
	}
	t := &Trap{Message: root, Backtrace: e.frames}
	switch {
	case s.ctx.Err() != nil && (root == "interrupted" || hostErr != nil && s.endedBy(hostErr)):
		t := s.interrupted()
		t.Backtrace = e.frames
		return t
	case hostErr != nil:
		t.Code, t.Err, t.Message = TrapHost, hostErr, hostName
		return t
	}
	if what, ok := strings.CutPrefix(root, "wasm trap: "); ok {
		t.Code, t.Message = trapCodes[what], what
		return t
	}
	if strings.Contains(root, "exceeds memory limits") || strings.Contains(root, "exceeds table limits") {
		t.Code = TrapMemory
		if s.shape.memories > 1 || s.shape.tables > 0 {
			t.Message += fmt.Sprintf(", where %d memories and %d tables share %d bytes", s.shape.memories, s.shape.tables, s.limits.Memory)
		}
		return t
	}
	if len(e.frames) > 0 && hostName != "" { // most likely lowering what it returned
		t.Message = fmt.Sprintf("%s (after host function %s)", e.oneLine(), hostName)
	}
	if len(e.frames) == 0 && (linking || slices.ContainsFunc(ours, func(p string) bool { return strings.HasPrefix(root, p) })) {
		return fmt.Errorf("%s: %s", doing, strings.TrimPrefix(e.oneLine(), ownProblem))
	}
	return t
}

// endedBy: a host function that gave up waiting when the context ended was interrupted, not broken.
func (s *Store) endedBy(err error) bool {
	return errors.Is(err, s.ctx.Err()) || errors.Is(err, s.cause())
}

func (s *Store) cause() error { return context.Cause(s.ctx) }

func (s *Store) interrupted() *Trap {
	return &Trap{Code: TrapInterrupt, Message: "its time is over", Err: s.cause()}
}
