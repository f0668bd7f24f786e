// Package journal is a small file of fixed size to which groups of changes are appended, one write and one fdatasync each,
// until they are folded into the database and the file begins again from its start.
//
// It knows nothing of what the payloads mean. Its file is preallocated and written over for ever, because a file that
// grows, or that has holes, makes the file system write its own journal with each fdatasync.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file is a row of sectors. A frame is one payload over sectors that follow one another; a sector belongs to one
// frame, so nothing that was acknowledged is written over by what comes after it. Integers are little endian.
//
//	0   4  CRC-32C of the salt, the sector's number (4 bytes) and the rest of the sector
//	4   8  the frame's sequence number
//	12  2  the sector's index in its frame
//	14  2  sectors of the frame
//	16 496 of the payload; the first sector's begins with the payload's length (4 bytes)
//
// Each sector vouches for itself. What a power cut leaves of a write are sectors that are new and sectors that are as
// they were, in any mixture; a sector that is neither was changed by the disk. The salt is known to the database alone, so
// that no payload can be made to look like sectors.
const (
	SectorSize = 512
	headSize   = 16
	bodySize   = SectorSize - headSize
	lengthSize = 4
	maxSectors = 1<<16 - 1
)

// ErrDamaged says that the disk gave back something else than was written.
var ErrDamaged = errors.New("damaged journal")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sectors that a payload of n bytes takes.
func Sectors(n int) int { return (lengthSize + n + bodySize - 1) / bodySize }

func sum(salt uint64, number int, sector []byte) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	binary.LittleEndian.PutUint32(b[8:], uint32(number))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, sector[4:])
}

// Encode appends the sectors of a frame, of which the first is sector `at` of the file.
func Encode(dst []byte, salt uint64, at int, seq uint64, payload []byte) []byte {
	n := Sectors(len(payload))
	for i := range n {
		start := len(dst)
		dst = append(dst, make([]byte, SectorSize)...)
		s := dst[start:]
		binary.LittleEndian.PutUint64(s[4:], seq)
		binary.LittleEndian.PutUint16(s[12:], uint16(i))
		binary.LittleEndian.PutUint16(s[14:], uint16(n))
		body := s[headSize:]
		if i == 0 {
			binary.LittleEndian.PutUint32(body, uint32(len(payload)))
			body = body[lengthSize:]
		}
		payload = payload[copy(body, payload):]
		binary.LittleEndian.PutUint32(s, sum(salt, at+i, s))
	}
	return dst
}

// Frame that was read back.
type Frame struct {
	Seq     uint64
	Payload []byte
}

// Found is what a file holds beyond the sequence number that the database has.
type Found struct {
	Frames []Frame // after+1, after+2, ..., without a gap
	Newest uint64  // the highest sequence number in any sound sector, or after; above the last frame's where something is left of frames that are not whole
	Damage error   // ErrDamaged: something that was acknowledged behind Frames may be lost; nil also where a power cut tore the last frame, which nobody had been told of
}

// Scan a journal's bytes for the frames above after.
//
// A frame that isn't whole ends them. It was torn by a power cut, and nobody had been told that it is there, unless
// something speaks against that: a later frame, which was begun only after this one was on the disk; or a sector of its
// own that is neither new nor as it was.
func Scan(data []byte, salt, after uint64) Found {
	f := Found{Newest: after}
	n := len(data) / SectorSize
	heads := make([]head, n)
	for i := range heads {
		heads[i] = readHead(salt, i, data[i*SectorSize:][:SectorSize])
		if heads[i].state == sound {
			f.Newest = max(f.Newest, heads[i].seq)
		}
	}
	at, want := 0, after+1
	for at < n {
		count := whole(heads[at:], want)
		if count == 0 {
			break
		}
		payload, ok := join(data[at*SectorSize:][:count*SectorSize])
		if !ok {
			f.Damage = fmt.Errorf("%w: the length of frame %d does not fit its %d sectors", ErrDamaged, want, count)
			return f
		}
		f.Frames = append(f.Frames, Frame{want, payload})
		at += count
		want++
	}
	if f.Newest > want {
		f.Damage = fmt.Errorf("%w: frame %d is not whole, but frame %d was written after it", ErrDamaged, want, f.Newest)
	} else if i := changed(heads[at:], want); i >= 0 {
		f.Damage = fmt.Errorf("%w: sector %d, where frame %d is expected, does not match its checksum", ErrDamaged, at+i, want)
	}
	return f
}

type state int

const (
	empty state = iota // as the file was made
	sound
	bad
)

type head struct {
	state        state
	seq          uint64
	index, count int
}

func readHead(salt uint64, number int, s []byte) head {
	if binary.LittleEndian.Uint32(s) == sum(salt, number, s) {
		return head{sound, binary.LittleEndian.Uint64(s[4:]), int(binary.LittleEndian.Uint16(s[12:])), int(binary.LittleEndian.Uint16(s[14:]))}
	}
	for _, b := range s {
		if b != 0 {
			return head{state: bad}
		}
	}
	return head{state: empty}
}

// whole gives the number of sectors of frame seq when it begins at heads[0] and all of it is there, else 0.
func whole(heads []head, seq uint64) int {
	count := heads[0].count
	if heads[0].state != sound || count == 0 || count > len(heads) {
		return 0
	}
	for i, h := range heads[:count] {
		if h.state != sound || h.seq != seq || h.index != i || h.count != count {
			return 0
		}
	}
	return count
}

// changed finds a bad sector where frame seq would lie: its first one, or any as far as its sound ones say that it reaches.
func changed(heads []head, seq uint64) int {
	reach := 1
	for i, h := range heads {
		if h.state == sound && h.seq == seq && h.index == i {
			reach = max(reach, h.count)
		}
	}
	for i, h := range heads[:min(reach, len(heads))] {
		if h.state == bad {
			return i
		}
	}
	return -1
}

func join(sectors []byte) (payload []byte, ok bool) {
	n := int(binary.LittleEndian.Uint32(sectors[headSize:]))
	count := len(sectors) / SectorSize
	if n < 0 || Sectors(n) != count {
		return nil, false
	}
	payload = make([]byte, 0, count*bodySize)
	for i := range count {
		payload = append(payload, sectors[i*SectorSize+headSize:(i+1)*SectorSize]...)
	}
	return payload[lengthSize : lengthSize+n : lengthSize+n], true
}
