package engine

// #include "shim.h"
import "C"

import (
	"strconv"
	"strings"
)

const (
	elementBytes = 8  // of a table: a pointer
	growable     = 64 // a table may grow to its part of one of this many parts of the memory limit
)

// shape is what a component's instance has: the library bounds each memory and each table by itself, so to bound their sum
// takes knowing how many there are.
type shape struct {
	memories, tables int64
	elements         int64 // of the largest table, when it is made
}

func (a shape) with(b *shape) shape {
	return shape{a.memories + b.memories, a.tables + b.tables, max(a.elements, b.elements)}
}

// elements that each table may grow to.
func (a shape) room(limit int64) int64 {
	if a.tables == 0 {
		return 0
	}
	return min(max(a.elements, limit/growable/a.tables/elementBytes), tableElements)
}

// divide a limit on all memories and tables: the tables' part is set aside, and the memories have equal parts of what is left.
func (a shape) divide(limit int64) (memory, elements int64) {
	elements = a.room(limit)
	return max(0, limit-a.tables*elements*elementBytes) / a.memories, elements
}

// affordable reports whether the tables fit the limit.
func (a *shape) affordable(limit int64) bool { return a.tables*a.elements*elementBytes <= limit }

// learn from why an instance could not be made; nil when that was something else.
func (a *shape) learn(text string) *shape {
	b := *a
	switch {
	case strings.Contains(text, "memory count too high"):
		b.memories++
	case strings.Contains(text, "table count too high"):
		if b.tables++; b.tables > b.memories*C.TABLES_PER_SLOT {
			return nil
		}
	default:
		_, rest, ok := strings.Cut(text, "table minimum size of ")
		number, _, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil || n <= a.elements || n > tableElements {
			return nil
		}
		b.elements = n
	}
	return &b
}
