package trust

import (
	"bytes"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func TestKeysSurviveTheirFiles(t *testing.T) {
	k, err := GenerateKey()
	must(t, err)
	b, err := k.PEM()
	must(t, err)
	again, err := ParseKey(b)
	must(t, err)
	if again.Public().ID() != k.Public().ID() {
		t.Error("another key")
	}
	j, err := k.Public().JSON()
	must(t, err)
	p, err := ParsePublicKey(j)
	must(t, err)
	if p.ID() != k.Public().ID() || len(p.ID()) != 64 {
		t.Errorf("id %s", p.ID())
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "no PEM": []byte("x"), "twice": append(bytes.Clone(b), b...), "cut": b[:len(b)/2],
		"another type": bytes.ReplaceAll(b, []byte("PRIVATE KEY"), []byte("EC PRIVATE KEY")),
	} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%s: private key passes", name)
		}
	}
	for _, bad := range []string{"", "{}", `{"keytype":"rsa"}`, strings.Replace(string(j), `"public":"`, `"public":"00`, 1), strings.Replace(string(j), ":", ": ", 1), "null"} {
		if _, err := ParsePublicKey([]byte(bad)); err == nil {
			t.Errorf("public key %s passes", bad)
		}
	}
	// No key signs nothing, with an error.
	f := newFleet(t, "green")
	if _, err := AddRelease(f.targets, manifest("x", "1.0.0", ""), t0); err == nil {
		t.Error("signed by nobody")
	}
	if _, err := (Key{}).PEM(); err == nil {
		t.Error("no key has a PEM")
	}
}

func TestStateSurvivesTheStore(t *testing.T) {
	f := newFleet(t, "green")
	f.push(manifest("greenhouse", "2.0.0", "1.5.0"), t0)
	b := f.board()
	_, _, err := b.install(f, t0, f.desired("pi-1", 1, "greenhouse/2.0.0.json"), manifest("greenhouse", "2.0.0", "1.5.0"))
	must(t, err)
	s, err := ParseState(b.state.Records())
	must(t, err)
	if !reflect.DeepEqual(s, b.state) {
		t.Errorf("got %+v\nwant %+v", s, b.state)
	}
	if zero, err := ParseState(nil); err != nil || !reflect.DeepEqual(zero, State{}) {
		t.Errorf("no records give %+v %v", zero, err)
	}
	for name, change := range map[string]func(map[string][]byte){
		"unknown record": func(r map[string][]byte) { r["x"] = []byte("x") },
		"empty record":   func(r map[string][]byte) { r["root"] = nil },
		"no facts":       func(r map[string][]byte) { delete(r, "facts") },
		"cut facts":      func(r map[string][]byte) { r["facts"] = r["facts"][:9] },
		"spaced facts":   func(r map[string][]byte) { r["facts"] = append([]byte(" "), r["facts"]...) },
	} {
		r := maps.Clone(b.state.Records())
		change(r)
		if _, err := ParseState(r); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestAcceptedReleasesAreBounded(t *testing.T) {
	var s State
	other := &release{application: "other", version: "1.0.0", digest: Digest{1}}
	s.accept(other)
	for i := range 20 {
		s.accept(&release{application: "greenhouse", version: "1.0.0", digest: Digest{2, byte(i)}})
	}
	if len(s.Accepted) != acceptedPerApp+1 || s.Accepted[0].Application != "other" || s.Accepted[acceptedPerApp].Digest != (Digest{2, 19}) {
		t.Errorf("accepted %v", s.Accepted)
	}
	// Taking one again moves it to the end.
	s.accept(&release{application: "greenhouse", version: "1.0.0", digest: Digest{2, 16}})
	if len(s.Accepted) != acceptedPerApp+1 || s.Accepted[acceptedPerApp].Digest != (Digest{2, 16}) {
		t.Errorf("accepted %v", s.Accepted)
	}
}

func FuzzState(f *testing.F) {
	fl := newFleet(f, "green")
	b := fl.board()
	_, _, err := b.install(fl, t0, fl.desired("pi-1", 1, "greenhouse/1.0.0.json"), manifest("greenhouse", "1.0.0", ""))
	must(f, err)
	f.Add(b.state.Records()["facts"])
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(map[string][]byte{"facts": b})
		if err == nil && !bytes.Equal(s.Records()["facts"], b) {
			t.Fatalf("two forms:\n%s\n%s", b, s.Records()["facts"])
		}
	})
}

// FuzzVerify feeds one file of each role, whatever it is: nothing crashes, and nothing but the honest bytes' meaning passes.
func FuzzVerify(f *testing.F) {
	fl := newFleet(f, "green")
	fl.rotate(func(*testFleet) {})
	env := fl.desired("pi-1", 1, "greenhouse/1.0.0.json")
	m := manifest("greenhouse", "1.0.0", "")
	for i, b := range [][]byte{fl.roots[1], fl.roots[2], fl.timestamp, fl.snapshot, fl.targets, env, m} {
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		g := *fl
		g.roots = map[int64][]byte{1: fl.roots[1], 2: fl.roots[2]}
		e, release := env, m
		pinned := fl.roots[1]
		switch which % 7 {
		case 0:
			pinned = b
		case 1:
			g.roots[2] = b
		case 2:
			g.timestamp = b
		case 3:
			g.snapshot = b
		case 4:
			g.targets = b
		case 5:
			e = b
		case 6:
			release = b
		}
		bd := &board{pinned: pinned}
		d, rel, err := bd.install(&g, t0, e, release)
		if err != nil || which%7 == 0 {
			return
		}
		if d.Generation != 1 || d.Device != "pi-1" || len(rel) != 1 || rel[0].Version() != "1.0.0" || !bytes.Equal(rel[0].Manifest(), m) {
			t.Fatalf("something else passes: %+v", d)
		}
	})
}
