package trust

import "time"

// Clock is what bounds a board's time: boards have no clock at boot, or one that shows 2106.
type Clock struct {
	Build    time.Time // when the agent was built
	Verified time.Time // State.Issued: the newest signed time
	LastGood time.Time // the last synchronised time that was saved
}

// farthest is how far above its floor a clock is believed: no board runs one build for longer without a network.
const farthest = 30 * 365 * 24 * time.Hour

// Floor is the newest of them: it is not earlier than that.
func (c Clock) Floor() time.Time { return latest(c.signed(), c.LastGood) }

// signed is the floor that no false time of a network can have raised.
func (c Clock) signed() time.Time { return latest(c.Build, c.Verified) }

// Now is the best guess of the time when the system clock says system: that, while it is plausible, else the floor. synced
// says that something (NTP) disciplines the clock: then it may be below LastGood, which was wrong in that case, so that one
// false time can't stop a board for ever.
func (c Clock) Now(system time.Time, synced bool) (now time.Time, plausible bool) {
	floor := c.Floor()
	if synced {
		floor = c.signed()
	}
	if system.Before(floor) || !floor.IsZero() && system.Sub(floor) > farthest {
		return c.Floor(), false
	}
	return system, true
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
