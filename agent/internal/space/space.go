// Package space judges the room on the disk that a board's state is on: how much is kept free, what fits beside that, and how
// much is to be shed when it is gone. It is pure: the caller asks the file system and the database, and sheds.
package space

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/manifest"
)

// Keep says how much of a disk is kept free: bytes, or a share of the disk where Percent isn't 0.
type Keep struct {
	Bytes   int64
	Percent float64
}

// DefaultKeep is a twentieth of the disk, and no more than 64 MiB.
var DefaultKeep = Keep{Bytes: 64 << 20, Percent: 5}

// ParseKeep reads "64MiB", "5%" or "0B"; "" is DefaultKeep.
func ParseKeep(s string) (Keep, error) {
	if s == "" {
		return DefaultKeep, nil
	}
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		p, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(p > 0 && p <= 90) {
			return Keep{}, fmt.Errorf("%q: want a share from above 0%% to 90%%", s)
		}
		return Keep{Percent: p}, nil
	}
	n, err := manifest.ParseSize(s)
	if err != nil {
		return Keep{}, err
	}
	return Keep{Bytes: n}, nil
}

// Of a disk of total bytes. Where there are both a share and bytes, the lower one counts.
func (k Keep) Of(total int64) int64 {
	if k.Percent == 0 {
		return k.Bytes
	}
	share := int64(float64(total) * k.Percent / 100)
	if k.Bytes > 0 {
		return min(share, k.Bytes)
	}
	return share
}

// Room is what a disk has, in bytes.
type Room struct {
	Total    int64 // of the file system
	Free     int64 // of it, that the agent may use
	Reusable int64 // inside the database, which fills that before it grows
}

// Disk is a disk's state over time. The zero value keeps nothing free, and is not short.
type Disk struct {
	Keep  Keep
	Short bool // less is free than is kept
	Room  Room // when it was last looked at
}

// Look takes in what there is now, and says whether Short has changed. A disk is short until a quarter more than what is kept is free, so
// that it doesn't go back and forth.
func (d *Disk) Look(r Room) (changed bool) {
	keep := d.Keep.Of(r.Total)
	if d.Short {
		keep += keep / 4
	}
	before := d.Short
	d.Room, d.Short = r, r.Free < keep
	return d.Short != before
}

// Missing is how much is to be shed: what the database may fill again counts as free.
func (d *Disk) Missing() int64 {
	if !d.Short {
		return 0
	}
	return max(0, d.Keep.Of(d.Room.Total)-d.Room.Free-d.Room.Reusable)
}

// Every is how long a look may be trusted: a disk with much room is looked at once a minute, which wakes a board for little.
func (d *Disk) Every() time.Duration {
	switch keep := d.Keep.Of(d.Room.Total); {
	case d.Short:
		return time.Second
	case d.Room.Free < 4*keep:
		return 5 * time.Second
	}
	return time.Minute
}

// Fits says whether so many bytes more of the database and of files leave free what is kept: nil, or a *FullError.
func (d *Disk) Fits(database, files int64) error {
	keep := d.Keep.Of(d.Room.Total)
	if need := max(0, database-d.Room.Reusable) + files; need > d.Room.Free-keep {
		return &FullError{Need: need, Free: d.Room.Free, Keep: keep}
	}
	return nil
}

// String tells what there is, for people.
func (d *Disk) String() string {
	return fmt.Sprintf("%s are free, %s are to be kept so", text(d.Room.Free), text(d.Keep.Of(d.Room.Total)))
}

// FullError says in bytes what does not fit.
type FullError struct{ Need, Free, Keep int64 }

func (e *FullError) Error() string {
	return fmt.Sprintf("the disk has no room: %s are needed and %s free, of which %s are kept so: make room, remove an application, or lower disk.keep_free in agent.toml", text(e.Need), text(e.Free), text(e.Keep))
}

func text(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
