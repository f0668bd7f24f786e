package journal

import (
	"fmt"
	"io"
)

// File is what a journal needs of its file. Sync is fdatasync: the file's size never changes.
type File interface {
	io.WriterAt
	Sync() error
}

// Journal appends frames to a file of whole sectors. Not safe for concurrent use.
type Journal struct {
	file    File
	salt    uint64
	sectors int
	next    int // sector
	buf     []byte
}

// keepBuffer: a larger frame's buffer is given back after its write.
const keepBuffer = 64 << 10

// New journal over the first size bytes of file, which hold nothing that is still needed.
func New(file File, size int64, salt uint64) *Journal {
	return &Journal{file: file, salt: salt, sectors: int(size / SectorSize)}
}

// Fits reports whether a payload of n bytes has room behind what was appended since the last Reset.
func (j *Journal) Fits(n int) bool {
	return Sectors(n) <= min(j.sectors-j.next, maxSectors)
}

// Used is the share of the file that holds frames, in bytes.
func (j *Journal) Used() int { return j.next * SectorSize }

// Append a frame, durable when the error is nil. After an error nobody knows what of it is on the disk: its number must not
// be used again, and the journal is Shut until the database says that it has everything up to that number.
func (j *Journal) Append(seq uint64, payload []byte) error {
	j.buf = Encode(j.buf[:0], j.salt, j.next, seq, payload)
	b := j.buf
	if cap(b) > keepBuffer {
		j.buf = nil
	}
	off := int64(j.next) * SectorSize
	j.next += Sectors(len(payload))
	if _, err := j.file.WriteAt(b, off); err != nil {
		j.Shut()
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		j.Shut()
		return fmt.Errorf("sync journal: %w", err)
	}
	return nil
}

// Shut takes no more until the next Reset.
func (j *Journal) Shut() { j.next = j.sectors }

// Reset goes back to the start: the database holds all that was appended.
func (j *Journal) Reset() { j.next = 0 }
