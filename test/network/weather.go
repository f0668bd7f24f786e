package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// weather is what one direction does to packets.
type weather struct {
	lost, doubled, overtaken float64 // shares of them
	delay, jitter            time.Duration
	closed                   bool // none passes
}

// restart of the router between board and fleet: it forgets the connections that it knew. Whom it tells, when they send more,
// with a reset; the others get nothing back.
type restart struct{ board, far bool }

// phase of a run: what the network is like for a while.
type phase struct {
	name     string
	at       time.Duration // from the start of the storm
	up, down weather       // from the board, and to it
	restart  *restart      // when it begins
}

// fair is the weather before and after.
var fair = weather{delay: time.Millisecond}

// patientRun is one that lasts long enough for the board to find out by its keepalive alone that it was forgotten: 80 s.
const patientRun = 4 * time.Minute

// forecast is the weather of a run, which the seed decides. Each kind comes round before any comes again, and those that forget
// connections come last in each round: a board that has nothing to say doesn't notice before its keepalive, and the rest of
// a short run would meet no packet.
func forecast(seed uint64, length time.Duration) []phase {
	dice := rand.New(rand.NewPCG(seed, 'w'))
	weathers := []func() phase{
		func() phase { return phase{name: "rain", up: rain(dice, .02), down: rain(dice, .02)} },
		func() phase { return phase{name: "storm", up: rain(dice, .2), down: rain(dice, .2)} },
		func() phase { return phase{name: "partition", up: weather{closed: true}, down: weather{closed: true}} },
		func() phase {
			return phase{name: "the board is not heard", up: weather{closed: true}, down: rain(dice, .02)}
		},
		func() phase {
			return phase{name: "the board hears nothing", up: rain(dice, .02), down: weather{closed: true}}
		},
	}
	restarts := []func() phase{
		func() phase { return restarted(dice, "both ends", restart{true, true}) },
		func() phase { return restarted(dice, "the board only", restart{board: true}) },
	}
	longest := 1500 * time.Millisecond
	if length >= patientRun {
		longest = length / 20
		restarts = append(restarts,
			func() phase { return restarted(dice, "the far end only", restart{far: true}) },
			func() phase { return restarted(dice, "nobody", restart{}) })
	}
	var all []phase
	var deck []func() phase
	for at := time.Duration(0); at < length; {
		if len(deck) == 0 {
			for _, kinds := range [][]func() phase{weathers, restarts} {
				for _, i := range dice.Perm(len(kinds)) {
					deck = append(deck, kinds[i])
				}
			}
		}
		p := deck[0]()
		deck, p.at = deck[1:], at
		all = append(all, p)
		at += 500*time.Millisecond + time.Duration(dice.Int64N(int64(longest)))
	}
	return all
}

func rain(dice *rand.Rand, most float64) weather {
	return weather{
		lost: most * dice.Float64(), doubled: .1 * dice.Float64(), overtaken: .2 * dice.Float64(),
		delay: time.Duration(dice.Int64N(int64(40 * time.Millisecond))), jitter: time.Duration(dice.Int64N(int64(20 * time.Millisecond))),
	}
}

func restarted(dice *rand.Rand, told string, r restart) phase {
	return phase{name: fmt.Sprintf("the router restarts and tells %s", told), up: rain(dice, .02), down: rain(dice, .02), restart: &r}
}
