package host

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	weak "math/rand/v2"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// maxRandom bounds one call; the text wants exactly as many bytes as are asked for, or a trap.
const maxRandom = 1 << 20

func randomInterfaces() []*iface {
	return []*iface{{
		name: "wasi:random/random" + wasi,
		funcs: map[string]fn{
			"get-random-bytes": f(randomBytes, kU64),
			"get-random-u64":   f(randomU64),
		},
	}, {
		// Bytes come from the secure source, as fast; single numbers and seeds, which hash tables ask for, from a fast one.
		name: "wasi:random/insecure" + wasi,
		funcs: map[string]fn{
			"get-insecure-random-bytes": f(randomBytes, kU64),
			"get-insecure-random-u64":   f(func(*Guest, []engine.Val) (engine.Val, error) { return engine.U64(weak.Uint64()), nil }),
		},
	}, {
		name: "wasi:random/insecure-seed" + wasi,
		funcs: map[string]fn{
			"insecure-seed": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
				for g.seed == [2]uint64{} {
					g.seed = [2]uint64{weak.Uint64(), weak.Uint64()}
				}
				return engine.Tuple(engine.U64(g.seed[0]), engine.U64(g.seed[1])), nil
			}),
		},
	}}
}

func randomBytes(_ *Guest, a []engine.Val) (engine.Val, error) {
	n := a[0].Uint()
	if n > maxRandom {
		return none, fmt.Errorf("%d random bytes at once, the limit is %d", n, maxRandom)
	}
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return engine.Bytes(b), nil
}

func randomU64(*Guest, []engine.Val) (engine.Val, error) {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return engine.U64(binary.NativeEndian.Uint64(b[:])), nil
}
