package wire

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // boards and laptops must agree on time zones, and small images have none

	"github.com/netresearch/go-cron"
)

// Bounds of a timer's interval.
const (
	MinEvery = 100 * time.Millisecond
	MaxEvery = 366 * 24 * time.Hour
)

// maxCronYears bounds the search for a line's next time: 29 February comes at least once in 8 years.
const maxCronYears = 9

var cronParser = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom).
	WithMaxSearchYears(maxCronYears)

// Schedule gives the times of a cron line.
type Schedule interface {
	// Next is the first time after t; the zero time if there is none in the next years.
	Next(t time.Time) time.Time
}

// ParseCron reads a cron line: five fields, or six with seconds first, in an IANA time zone. If both the day of the month
// and the day of the week are restricted, either is enough, as in crontab(5). What passes here runs on every board.
//
// When clocks are put forward, a time that doesn't exist comes at the moment of the change; when they are put back, a line with fixed
// hours comes once, at the first of both times, and one with a * among its hours goes on with the beat of real time.
func ParseCron(line, timezone string) (Schedule, error) {
	if strings.HasPrefix(line, "@") {
		return nil, fmt.Errorf("cron line %.100q: write the five fields, as in %q, or use every", line, "0 6 * * *")
	}
	if strings.Contains(line, "=") {
		return nil, fmt.Errorf("cron line %.100q: give the time zone as timezone", line)
	}
	if timezone == "" || timezone == "Local" {
		return nil, fmt.Errorf("time zone %q: want an IANA name, as in %q", timezone, "Europe/Berlin")
	}
	location, err := time.LoadLocation(timezone)
	if err != nil {
		return nil, fmt.Errorf("time zone %.80q is not known: want an IANA name, as in %q", timezone, "Europe/Berlin")
	}
	zone := timezone
	fixed := fixedHours(line)
	if fixed {
		zone = "UTC" // what its fields mean is put into the time zone by wallTimes
	}
	parsed, err := cronParser.Parse("CRON_TZ=" + zone + " " + line)
	if err != nil {
		return nil, fmt.Errorf("cron line %.100q: %w", line, err)
	}
	s := Schedule(parsed)
	if fixed {
		s = wallTimes{parsed, location}
	}
	if s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("cron line %.100q: there is no such date", line)
	}
	return s, nil
}

// fixedHours reports whether a cron line names its hours.
func fixedHours(line string) bool {
	f := strings.Fields(line)
	return len(f) == 5 && !strings.Contains(f[1], "*") || len(f) == 6 && !strings.Contains(f[2], "*")
}

// wallTimes puts a schedule of clock faces, given in UTC, into a time zone.
type wallTimes struct {
	faces Schedule
	zone  *time.Location
}

func (w wallTimes) Next(t time.Time) time.Time {
	l := t.In(w.zone)
	face := time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
	for {
		if face = w.faces.Next(face); face.IsZero() {
			return face
		}
		if at := firstAt(face, w.zone); at.After(t) {
			return at
		}
	}
}

// firstAt is the first instant at which clocks in a zone show face, or pass it by.
func firstAt(face time.Time, zone *time.Location) time.Time {
	const far = 48 * time.Hour // clocks have been put by a day
	var at time.Time
	for _, side := range []time.Duration{-far, far} {
		_, offset := face.Add(side).In(zone).Zone()
		c := face.Add(-time.Duration(offset) * time.Second).In(zone)
		_, is := c.Zone()
		if is == offset && (at.IsZero() || c.Before(at)) {
			at = c
		}
	}
	if !at.IsZero() {
		return at
	}
	_, before := face.Add(-far).In(zone).Zone()
	change, _ := face.Add(-time.Duration(before) * time.Second).In(zone).ZoneBounds()
	return change
}
