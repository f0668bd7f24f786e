package agent

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// Each attack begins on a board that runs version 1, and tries to have it run something that the release keys did not sign for
// it now. It names what the board's report must say about it.
var attacks = []struct {
	name   string
	attack func(*testing.T, *testFleet, wire.Pointer)
	says   string
}{
	{"desired signed by a wrong key", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.send(wire.ChannelDesired, f.envelope(f.payload(f.push("2.0.0", hello2, nil)), newKey(t)))
	}, "not signed by enough trusted keys"},
	{"desired signed by a release key", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.send(wire.ChannelDesired, f.envelope(f.payload(f.push("2.0.0", hello2, nil)), f.release))
	}, "not signed by enough trusted keys"},
	{"desired of another device", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		d := f.payload(f.push("2.0.0", hello2, nil))
		d.Device = "barn"
		f.send(wire.ChannelDesired, f.envelope(d, f.director))
	}, "for another device: barn, this is hut"},
	{"desired of another fleet", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		d := f.payload(f.push("2.0.0", hello2, nil))
		d.Fleet = "ranch"
		f.send(wire.ChannelDesired, f.envelope(d, f.director))
	}, "for another fleet: ranch, this is farm"},
	{"replay of an older generation", func(t *testing.T, f *testFleet, one wire.Pointer) {
		older := f.envelope(f.payload(f.push("2.0.0", hello2, nil)), f.director)
		f.install(one)
		f.send(wire.ChannelDesired, older)
	}, "verify director 2: older than what was seen: generation 3 was accepted before"},
	{"other content in an accepted generation", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		d := f.payload(f.push("2.0.0", hello2, nil))
		d.Generation = 1
		f.send(wire.ChannelDesired, f.envelope(d, f.director))
	}, "this generation was accepted before, with other content"},
	{"timestamp older than the one seen", func(t *testing.T, f *testFleet, one wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		older := f.meta[trust.Timestamp]
		f.stamp(time.Now(), time.Now().Add(time.Hour))
		f.install(one)
		f.set(trust.Timestamp, older)
		f.desire(two)
	}, "verify timestamp 3: older than what was seen"},
	{"timestamp expired", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		f.stamp(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		f.desire(two)
	}, "verify timestamp 4: expired"},
	{"timestamp signed by a wrong key", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.timestamp = newKey(t)
		f.desire(f.push("2.0.0", hello2, nil))
	}, "verify timestamp 3: not signed"},
	{"timestamp without end", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		f.set(trust.Timestamp, bytes.Repeat([]byte("a"), 1<<20))
		f.desire(two)
	}, "limit is 16384 bytes"},
	{"root of another hand", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.root, f.release = newKey(t), newKey(t)
		first, err := trust.NewRoot(f.spec(), f.root)
		must(t, err)
		second, err := trust.NextRoot(first, f.spec(), f.root)
		must(t, err)
		f.roots[2] = second
		f.desire(f.push("2.0.0", hello2, nil))
	}, "verify root 2: not signed"},
	{"targets signed by a wrong key", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.desire(f.sign("2.0.0", hello2, nil, newKey(t)))
	}, "verify targets 3: not signed"},
	{"targets signed by the server's keys", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.desire(f.sign("2.0.0", hello2, nil, f.director))
	}, "verify targets 3: not signed"},
	{"new snapshot with old targets", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		older := f.meta[trust.Targets]
		two := f.push("2.0.0", hello2, nil)
		f.set(trust.Targets, older)
		f.desire(two)
	}, "verify targets"},
	{"new timestamp with old snapshot", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		older := f.meta[trust.Snapshot]
		two := f.push("2.0.0", hello2, nil)
		f.set(trust.Snapshot, older)
		f.desire(two)
	}, "verify snapshot"},
	{"release that nobody signed", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		two.Version, two.Target = "2.0.1", trust.TargetPath(app, "2.0.1")
		f.desire(two)
	}, "not among the signed releases: trial 2.0.1"},
	{"signed release under another digest", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		two.Release = wire.Sum([]byte("another"))
		f.desire(two)
	}, "doesn't match what was signed: trial 2.0.0"},
	{"release below the floor", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		lower := f.push("1.5.0", hello2, nil)
		f.push("2.0.0", hello2, func(r *wire.Release) { r.Floor = "2.0.0" })
		f.desire(lower)
	}, "below the floor: trial 1.5.0, and its floor is 2.0.0"},
	{"manifest of other bytes", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		f.manifests[two.Release] = bytes.Replace(f.manifests[two.Release], []byte(`"/..."`), []byte(`"/no."`), 1)
		f.desire(two)
	}, "manifest of trial/2.0.0.json has digest"},
	{"manifest of another length", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		two := f.push("2.0.0", hello2, nil)
		f.manifests[two.Release] = append(f.manifests[two.Release], ' ')
		f.desire(two)
	}, "were signed"},
	{"component with a changed block", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.tamper = func(g wire.Get, frames []wire.Frame) []wire.Frame {
			if g.Blocks != nil {
				frames[0].Body = append([]byte{frames[0].Body[0] ^ 1}, frames[0].Body[1:]...)
			}
			return frames
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "check block 0: digest"},
	{"sound blocks of other content", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.makeOffer = func(r wire.OfferRequest) offered {
			return makeOffer(t, wire.EncodingRaw, r, wire.Digest{}, variant(hello1, "3"))
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "content has digest"},
	{"offer of another size", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.makeOffer = func(r wire.OfferRequest) offered {
			r.Size++
			return makeOffer(t, wire.EncodingRaw, r, wire.Digest{}, append(slices.Clone(hello2), 0))
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "check offer: it is for"},
	{"encoding larger than its content", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.makeOffer = func(r wire.OfferRequest) offered {
			return makeOffer(t, wire.EncodingZstd, r, wire.Digest{}, make([]byte, 8<<20))
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "check offer: 8388608 bytes to send"},
	{"compressed bomb", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		enc, err := zstd.NewWriter(nil)
		must(t, err)
		bomb := enc.EncodeAll(make([]byte, 64<<20), nil)
		f.makeOffer = func(r wire.OfferRequest) offered { return makeOffer(t, wire.EncodingZstd, r, wire.Digest{}, bomb) }
		f.desire(f.push("2.0.0", hello2, nil))
	}, "window size exceeded"},
	{"compressed bomb that hides its size", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		var bomb bytes.Buffer
		enc, err := zstd.NewWriter(&bomb, zstd.WithWindowSize(1<<20))
		must(t, err)
		for range 64 {
			_, err := enc.Write(make([]byte, 1<<20))
			must(t, err)
		}
		must(t, enc.Close())
		f.makeOffer = func(r wire.OfferRequest) offered {
			return makeOffer(t, wire.EncodingZstd, r, wire.Digest{}, bomb.Bytes())
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "got more than the"},
	{"patch of something that isn't here", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.makeOffer = func(r wire.OfferRequest) offered {
			return makeOffer(t, wire.EncodingZstdPatch, r, wire.Sum([]byte("elsewhere")), []byte("a patch"))
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "which is not on the board"},
	{"patch that is no patch", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.makeOffer = func(r wire.OfferRequest) offered {
			return makeOffer(t, wire.EncodingZstdPatch, r, wire.Sum(hello1), []byte("garbage, of that length"))
		}
		f.desire(f.push("2.0.0", hello2, nil))
	}, "magic"},
	{"garbage on every channel", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		r := rand.New(rand.NewPCG(1, 2))
		for range 50 {
			for _, ch := range []wire.Channel{wire.ChannelBlock, wire.ChannelDo, wire.ChannelDesired} {
				b := make([]byte, 1+r.IntN(2000))
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				f.send(ch, b)
			}
		}
	}, "verify director: malformed"},
	{"desired state of 100 KB", func(t *testing.T, f *testFleet, _ wire.Pointer) {
		f.send(wire.ChannelDesired, bytes.Repeat([]byte("{"), 100<<10))
	}, "too large"},
}

// honesty remembers what an attack may change; the function that it gives puts that back.
func (f *testFleet) honesty() (heal func()) {
	keys, targets := [...]trust.Key{f.root, f.release, f.snapshot, f.timestamp, f.director}, f.meta[trust.Targets]
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.root, f.release, f.snapshot, f.timestamp, f.director = keys[0], keys[1], keys[2], keys[3], keys[4]
		f.tamper, f.makeOffer = nil, nil
		delete(f.roots, 2)
		if trust.CheckTargets(f.roots[1], nil, f.meta[trust.Targets], time.Now()) != nil {
			f.meta[trust.Targets] = targets
		}
	}
}

func (f *testFleet) set(role trust.Role, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.meta[role] = b
}

func TestNothingThatIsNotVouchedForRuns(t *testing.T) {
	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			b := boardOf(t, f)
			one := f.push("1.0.0", hello1, nil)
			f.install(one)
			b.serves("trial 1.0.0")

			heal := f.honesty()
			c.attack(t, f, one)
			r := f.await("a complaint", func(r wire.Reported) bool { return strings.Contains(complaints(r), c.says) })
			b.serves("trial 1.0.0")
			if frozen := strings.Contains(c.says, "expired"); r.Frozen != frozen {
				t.Errorf("reports frozen %v, want %v", r.Frozen, frozen)
			}
			if blobs, err := b.agent.store.Blobs(); err != nil || len(blobs) != 1 || blobs[0] != wire.Sum(hello1).String() {
				t.Errorf("the store holds %v, %v; want what runs and no more", blobs, err)
			}

			// And it can be led back: no attack shuts a board off from its own fleet.
			heal()
			f.install(f.push("3.0.0", hello2, nil))
			b.serves("trial 3.0.0")
		})
	}
}
