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
	if _, err := time.LoadLocation(timezone); err != nil {
		return nil, fmt.Errorf("time zone %.80q is not known: want an IANA name, as in %q", timezone, "Europe/Berlin")
	}
	s, err := cronParser.Parse("CRON_TZ=" + timezone + " " + line)
	if err != nil {
		return nil, fmt.Errorf("cron line %.100q: %w", line, err)
	}
	if s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("cron line %.100q: there is no such date", line)
	}
	return s, nil
}
