package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one fault at one place: `dunlin.toml:12:9: unknown key "tpoic" in [[trigger.mqtt]]: did you mean "topic"?`.
type Error struct {
	File   string
	Line   int // from 1
	Column int // from 1, in characters
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text) }

// Errors are all the faults of one file, in its order; never empty.
type Errors []*Error

// Error is one line for each fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single faults, for errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// faults collects errors by byte offset.
type faults struct {
	file string
	data []byte
	list []fault
	told []fault // what is no fault, and worth a word
}

type fault struct {
	at   int
	text string
}

func (f *faults) add(at int, format string, args ...any) {
	f.list = append(f.list, fault{at, fmt.Sprintf(format, args...)})
}

func (f *faults) note(at int, format string, args ...any) {
	f.told = append(f.told, fault{at, fmt.Sprintf(format, args...)})
}

// err is nil if there are no faults.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return f.placed(f.list)
}

// notes are one line each, with their places.
func (f *faults) notes() []string {
	var out []string
	for _, n := range f.placed(f.told) {
		out = append(out, n.Error())
	}
	return out
}

// placed gives each its line and column, in the file's order, and each once.
func (f *faults) placed(list []fault) Errors {
	slices.SortStableFunc(list, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	var out Errors
	for _, one := range slices.Compact(list) {
		line, column := f.position(one.at)
		out = append(out, &Error{File: f.file, Line: line, Column: column, Text: one.text})
	}
	return out
}

func (f *faults) position(at int) (line, column int) {
	before := string(f.data[:min(at, len(f.data))])
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[start:]) + 1
}

// suggest ends a sentence with the word that was probably meant, or with all the possible ones.
func suggest(got string, possible []string) string {
	best, least := "", 3 // more than two edits is another word
	for _, p := range possible {
		if d := distance(got, p); d < least && d < len(p) {
			best, least = p, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	if len(possible) == 0 {
		return ""
	}
	return ": possible are " + strings.Join(possible, ", ")
}

// distance counts the single edits (insert, drop, replace, swap of neighbours) from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
