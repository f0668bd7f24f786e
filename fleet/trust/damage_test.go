package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

func TestDamagedMetadataIsRefusedWholly(t *testing.T) {
	f := newFleet(t, "green")
	f.rotate(func(*testFleet) {})
	env := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	files := map[Role][]byte{Root: f.roots[2], Timestamp: f.timestamp, Snapshot: f.snapshot, Targets: f.targets, Director: env}
	for role, file := range files {
		t.Run(string(role), func(t *testing.T) {
			try := func(damaged []byte) error {
				g := *f
				g.roots = map[int64][]byte{1: f.roots[1], 2: f.roots[2]}
				e := env
				switch role {
				case Root:
					g.roots[2] = damaged
				case Timestamp:
					g.timestamp = damaged
				case Snapshot:
					g.snapshot = damaged
				case Targets:
					g.targets = damaged
				case Director:
					e = damaged
				}
				b := f.board()
				_, _, err := b.install(&g, t0, e, manifest("greenhouse", "1.0.0", ""))
				if err != nil && (b.state.Generation != 0 || len(b.state.Accepted) != 0) {
					t.Fatalf("kept something of %s", role)
				}
				return err
			}
			must(t, try(file))
			for i := 0; i < len(file); i += 17 {
				if err := try(file[:i]); err == nil {
					t.Fatalf("cut at %d passes", i)
				}
				flipped := bytes.Clone(file)
				flipped[i] ^= 1
				// A flip that changes no signed value (the name of an unknown field outside) is the only one that may pass.
				if err := try(flipped); err == nil && role != Root && role != Timestamp {
					t.Fatalf("bit flipped at %d passes: %s", i, flipped)
				}
			}
			var large *Error
			if err := try(append(bytes.Clone(file), bytes.Repeat([]byte(" "), MaxTargetsBytes)...)); !errors.As(err, &large) || large.Kind != TooLarge {
				t.Errorf("padded: %v", err)
			}
		})
	}
}

// A flip inside a root or timestamp may keep its meaning only outside of what is signed.
func TestFlippedSignedPartIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	signed := bytes.Index(f.timestamp, []byte(`"signed":`)) + len(`"signed":`)
	for i := signed; i < len(f.timestamp)-1; i++ {
		g := *f
		g.timestamp = bytes.Clone(f.timestamp)
		g.timestamp[i] ^= 1
		if _, err := f.board().refresh(&g, t0); err == nil {
			t.Fatalf("flip at %d passes: %s", i, g.timestamp)
		}
	}
}

func TestHostileShapesDontCrash(t *testing.T) {
	f := newFleet(t, "green")
	resign := func(b []byte, old, new string) []byte {
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %s in %s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
	keyJSON, err := f.rootKey.Public().JSON()
	must(t, err)
	for name, b := range map[string][]byte{
		"null role":     resign(f.rootFile, `"roles":{`, `"roles":{"x":null,`),
		"null key":      resign(f.rootFile, string(keyJSON), "null"),
		"short key":     resign(f.rootFile, `"public":"`, `"public":"00`),
		"no roles":      []byte(`{"signed":{"_type":"root","version":1},"signatures":[]}`),
		"zero version":  resign(f.rootFile, `"version":1`, `"version":0`),
		"null":          []byte("null"),
		"empty":         nil,
		"null director": resign(f.rootFile, `"director":{`, `"directo":{`),
	} {
		if _, err := Open(b, State{}, t0); err == nil {
			t.Errorf("%s: root passes", name)
		}
	}
	b := f.board()
	for name, ts := range map[string][]byte{
		"null entry": resign(f.timestamp, `"meta":{"snapshot.json":{`, `"meta":{"snapshot.json":null,"x":{`),
		"no entry":   resign(f.timestamp, `"snapshot.json"`, `"snapshot.jsn"`),
	} {
		g := *f
		g.timestamp = ts
		_, err := b.refresh(&g, t0)
		if !errors.Is(err, Malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvelopeHasOneForm(t *testing.T) {
	f := newFleet(t, "green")
	good := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	var e dsse.Envelope
	must(t, json.Unmarshal(good, &e))
	for name, change := range map[string]func(*dsse.Envelope){
		"type": func(e *dsse.Envelope) { e.PayloadType = "application/json" },
		"url":  func(e *dsse.Envelope) { e.Payload = strings.TrimRight(e.Payload, "=") },
	} {
		c := e
		change(&c)
		b, err := json.Marshal(c)
		must(t, err)
		if _, _, err := f.board().install(f, t0, b, manifest("greenhouse", "1.0.0", "")); !errors.Is(err, Malformed) && !errors.Is(err, Signature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"space": append(bytes.Clone(good), ' '), "twice": append(bytes.Clone(good), good...)} {
		_, _, err := f.board().install(f, t0, b, manifest("greenhouse", "1.0.0", ""))
		refused(t, err, Malformed)
		_ = name
	}
	if _, err := SignDesired([]byte(`{"fleet":"green"}`), f.direct); !errors.Is(err, Malformed) {
		t.Errorf("the director signs nonsense: %v", err)
	}
}
