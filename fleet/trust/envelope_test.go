package trust

import (
	"bytes"
	"encoding/base64"
	"testing"
)

// Only what the director of this root signed as a request passes for one.
func TestARequestIsTheDirectorsOrNone(t *testing.T) {
	f := newFleet(t, "green")
	payload := []byte(`{"operation":"events.drop"}`)
	good, err := SignDo(payload, f.direct)
	must(t, err)
	got, err := VerifyDo(f.roots[1], good)
	must(t, err)
	if !bytes.Equal(got, payload) {
		t.Fatalf("got %s", got)
	}
	stranger, err := GenerateKey()
	must(t, err)
	byStranger, err := SignDo(payload, stranger)
	must(t, err)
	_, err = VerifyDo(f.roots[1], byStranger)
	refused(t, err, Signature)
	text := base64.StdEncoding.EncodeToString
	_, err = VerifyDo(f.roots[1], bytes.Replace(good, []byte(text(payload)), []byte(text([]byte(`{"operation":"events.list"}`))), 1))
	refused(t, err, Signature)
	// What the director signed as something else, and a request as a desired state.
	_, err = VerifyDo(f.roots[1], f.desired("pi-1", 1, "greenhouse/1.0.0.json"))
	refused(t, err, Malformed)
	_, _, err = f.board().install(f, t0, good, manifest("greenhouse", "1.0.0", ""))
	refused(t, err, Malformed)
	_, err = VerifyDo(f.roots[1], append(bytes.Clone(good), ' '))
	refused(t, err, Malformed)
	_, err = VerifyDo(f.roots[1], bytes.Repeat([]byte("x"), MaxDoEnvelopeBytes+1))
	refused(t, err, TooLarge)
	if _, err := SignDo(payload); err == nil {
		t.Error("signed by nobody")
	}
	if _, err := SignDo(make([]byte, MaxDoEnvelopeBytes), f.direct); err == nil {
		t.Error("a request larger than boards take is signed")
	}
}

// FuzzDo: nothing crashes, and what passes is what was signed.
func FuzzDo(f *testing.F) {
	fl := newFleet(f, "green")
	good, err := SignDo([]byte(`{"id":"r1"}`), fl.direct)
	must(f, err)
	f.Add(good)
	f.Add(fl.desired("pi-1", 1, "greenhouse/1.0.0.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if payload, err := VerifyDo(fl.roots[1], b); err == nil && string(payload) != `{"id":"r1"}` {
			t.Fatalf("%q passes", payload)
		}
	})
}
