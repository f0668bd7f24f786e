package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Blocks is which blocks of an encoding a board has: a bitmap that survives restarts (Marshal), and the source of the
// next request. Not safe for concurrent use.
type Blocks struct {
	total uint32
	have  uint32
	bits  []byte // block i is bit i%8 of byte i/8, least significant first
}

// NewBlocks is an empty bitmap of total blocks.
func NewBlocks(total uint32) *Blocks {
	return &Blocks{total: total, bits: make([]byte, (uint64(total)+7)/8)}
}

// ParseBlocks is the inverse of Marshal.
func ParseBlocks(b []byte) (*Blocks, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("decode block bitmap: %d bytes", len(b))
	}
	k := Blocks{total: binary.BigEndian.Uint32(b), bits: append([]byte{}, b[4:]...)}
	if uint64(len(k.bits)) != (uint64(k.total)+7)/8 {
		return nil, fmt.Errorf("decode block bitmap: %d bytes for %d blocks", len(k.bits), k.total)
	}
	if r := k.total % 8; r != 0 && k.bits[len(k.bits)-1]>>r != 0 {
		return nil, fmt.Errorf("decode block bitmap: blocks beyond the last: %w", ErrCanonical)
	}
	for _, x := range k.bits {
		k.have += uint32(bits.OnesCount8(x))
	}
	return &k, nil
}

// Marshal gives the number of blocks (4 bytes, big endian) and the bitmap.
func (k *Blocks) Marshal() []byte {
	return append(binary.BigEndian.AppendUint32(nil, k.total), k.bits...)
}

// Add marks block i, and reports whether it is new. Blocks beyond the last are not.
func (k *Blocks) Add(i uint32) bool {
	if i >= k.total || k.Has(i) {
		return false
	}
	k.bits[i/8] |= 1 << (i % 8)
	k.have++
	return true
}

// Has reports whether block i is there.
func (k *Blocks) Has(i uint32) bool { return i < k.total && k.bits[i/8]&(1<<(i%8)) != 0 }

// Total is the number of blocks, Have of those that are there.
func (k *Blocks) Total() uint32 { return k.total }

// Have is the number of blocks that are there.
func (k *Blocks) Have() uint32 { return k.have }

// Done reports whether all are there.
func (k *Blocks) Done() bool { return k.have == k.total }

// Next is the first window missing blocks, as ranges for a BlockRequest; none when Done. window is capped at MaxWindow.
func (k *Blocks) Next(window int) []Range {
	var out []Range
	left := min(window, MaxWindow)
	for i := uint32(0); i < k.total && left > 0; i++ {
		if i%8 == 0 && k.bits[i/8] == 0xff {
			i += 7
			continue
		}
		if k.Has(i) {
			continue
		}
		left--
		if n := len(out); n > 0 && out[n-1].First+out[n-1].Count == i {
			out[n-1].Count++
			continue
		}
		out = append(out, Range{First: i, Count: 1})
	}
	return out
}
