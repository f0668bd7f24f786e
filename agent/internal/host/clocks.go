package host

import (
	"math"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

func clocksInterfaces() []*iface {
	return []*iface{{
		name:      "wasi:clocks/monotonic-clock" + wasi,
		resources: resources{"pollable": typPollable},
		funcs: map[string]fn{
			"now":        f(func(g *Guest, _ []engine.Val) (engine.Val, error) { return engine.U64(uint64(g.monotonic())), nil }),
			"resolution": f(func(*Guest, []engine.Val) (engine.Val, error) { return engine.U64(1), nil }),
			"subscribe-instant": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				return own(g, typPollable, &pollable{g: g, at: instant(a[0].Uint())})
			}, kU64),
			"subscribe-duration": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				return own(g, typPollable, &pollable{g: g, at: after(g.monotonic(), a[0].Uint())})
			}, kU64),
		},
	}, {
		name: "wasi:clocks/wall-clock" + wasi,
		funcs: map[string]fn{
			"now":        f(func(g *Guest, _ []engine.Val) (engine.Val, error) { return datetime(g.now()), nil }),
			"resolution": f(func(*Guest, []engine.Val) (engine.Val, error) { return datetime(time.Unix(0, 1)), nil }),
		},
	}, {
		name: "wasi:clocks/timezone" + wasi,
		funcs: map[string]fn{
			"display": f(func(*Guest, []engine.Val) (engine.Val, error) {
				return engine.Record(
					engine.Field{Name: "utc-offset", Val: engine.S32(0)},
					engine.Field{Name: "name", Val: engine.String("UTC")},
					engine.Field{Name: "in-daylight-saving-time", Val: engine.Bool(false)},
				), nil
			}, kRecord),
			"utc-offset": f(func(*Guest, []engine.Val) (engine.Val, error) { return engine.S32(0), nil }, kRecord),
		},
	}}
}

// after is a monotonic time d nanoseconds from now, or the last one that there is.
func after(now int64, d uint64) int64 {
	if d > uint64(math.MaxInt64-now) {
		return math.MaxInt64
	}
	return now + int64(d)
}

// datetime of t; times before 1970 have no form in WASI 0.2 and become its start.
func datetime(t time.Time) engine.Val {
	if t.Unix() < 0 {
		t = time.Unix(0, 0)
	}
	return engine.Record(
		engine.Field{Name: "seconds", Val: engine.U64(uint64(t.Unix()))},
		engine.Field{Name: "nanoseconds", Val: engine.U32(uint32(t.Nanosecond()))},
	)
}

func (g *Guest) now() time.Time {
	if g.env.Now != nil {
		return g.env.Now()
	}
	return time.Now()
}
