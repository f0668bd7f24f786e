package trust

import "time"

// Clock is what bounds a board's time from below: boards have no clock at boot.
type Clock struct {
	Build    time.Time // when the agent was built
	Verified time.Time // State.Issued: the newest signed time
	LastGood time.Time // the last synchronised time that was saved
}

// Floor is the newest of them: it is not earlier than that.
func (c Clock) Floor() time.Time { return latest(latest(c.Build, c.Verified), c.LastGood) }

// Now is the best guess of the time when the system clock says system, and whether that clock is plausible (not below
// the floor). It says nothing about whether the clock is synchronised.
func (c Clock) Now(system time.Time) (now time.Time, plausible bool) {
	floor := c.Floor()
	return latest(system, floor), !system.Before(floor)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
