package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Vectors are for other implementations as much as for this one. Each folder is what a fresh board is served, with
// 1.root.json pinned, and case.json says when, which board it is, and the verdict: "" is to install.
const vectors = "../../test/vectors/trust"

var update = flag.Bool("update", false, "write the vectors anew from the stories in this file")

type vectorCase struct {
	Now    time.Time `json:"now"`
	Device string    `json:"device"`
	Want   Kind      `json:"want"`
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	dirs, err := filepath.Glob(filepath.Join(vectors, "*", "case.json"))
	if err != nil || len(dirs) < 10 {
		t.Fatalf("%d vectors: %v", len(dirs), err)
	}
	for _, path := range dirs {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var c vectorCase
			must(t, json.Unmarshal(read(t, dir, "case.json"), &c))
			err := serve(t, dir, c)
			if c.Want == "" {
				must(t, err)
			} else {
				refused(t, err, c.Want)
			}
		})
	}
}

func read(t testing.TB, dir, name string) []byte {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	return b
}

func serve(t testing.TB, dir string, c vectorCase) error {
	v, err := Open(read(t, dir, "1.root.json"), State{}, c.Now)
	if err != nil {
		return err
	}
	for want, ok := v.Next(); ok; want, ok = v.Next() {
		name := string(want.Role) + ".json"
		if want.Role == Root {
			name = fmt.Sprintf("%d.root.json", want.Version)
		}
		if b := read(t, dir, name); b == nil && want.Role == Root {
			err = v.NoNewerRoot()
		} else {
			err = v.Update(want.Role, b)
		}
		if err != nil {
			return err
		}
	}
	d, err := v.Desired(read(t, dir, "desired.json"), c.Device)
	if err != nil {
		return err
	}
	for _, p := range d.Releases {
		r, err := v.Release(p.Target, read(t, dir, "release.json"))
		if err != nil {
			return err
		}
		if again, err := Reopen(v.State(), r.Manifest()); err != nil || again.Digest() != p.Digest {
			t.Errorf("reopen: %v", err)
		}
	}
	return nil
}

func writeVectors(t *testing.T) {
	m := manifest("greenhouse", "1.0.0", "")
	for _, c := range []struct {
		name  string
		want  Kind
		after time.Duration
		story func(f *testFleet, files map[string][]byte)
	}{
		{"install", "", 0, nil},
		{"install-after-root-rotation", "", 0, func(f *testFleet, files map[string][]byte) {
			f.rotate(func(f *testFleet) { f.rootKey = seedKey(t, "rotated", 0) })
			files["2.root.json"] = f.rootFile
		}},
		{"expired-timestamp", Expired, 2 * day, nil},
		{"expired-snapshot", Expired, 8 * day, func(f *testFleet, files map[string][]byte) {
			f.stamp(t0.Add(8 * day))
			files["timestamp.json"] = f.timestamp
		}},
		{"expired-root", Expired, 400 * day, nil},
		{"timestamp-by-wrong-key", Signature, 0, func(f *testFleet, files map[string][]byte) {
			f.timeKey = f.snapKey
			f.stamp(t0)
			files["timestamp.json"] = f.timestamp
		}},
		{"targets-by-server", Signature, 0, func(f *testFleet, files map[string][]byte) {
			b, err := AddRelease(f.targets, manifest("evil", "1.0.0", ""), t0.Add(90*day), f.snapKey)
			must(t, err)
			f.targets = b
			f.publish(t0)
			files["targets.json"], files["snapshot.json"], files["timestamp.json"] = f.targets, f.snapshot, f.timestamp
		}},
		{"root-by-new-key-only", Signature, 0, func(f *testFleet, files map[string][]byte) {
			f.rootKey = seedKey(t, "rotated", 0)
			b, err := makeRoot(f.spec(), 2, []Key{f.rootKey})
			must(t, err)
			files["2.root.json"] = b
		}},
		{"desired-by-wrong-key", Signature, 0, func(f *testFleet, files map[string][]byte) {
			files["desired.json"] = f.sign(f.payload("pi-1", 1, "greenhouse/1.0.0.json"), f.timeKey)
		}},
		{"desired-for-another-device", WrongDevice, 0, func(f *testFleet, files map[string][]byte) {
			files["desired.json"] = f.desired("pi-2", 1)
		}},
		{"desired-for-another-fleet", WrongFleet, 0, func(f *testFleet, files map[string][]byte) {
			p := f.payload("pi-1", 1)
			p.Fleet = "blue"
			files["desired.json"] = f.sign(p, f.direct)
		}},
		{"desired-unsigned-release", Unknown, 0, func(f *testFleet, files map[string][]byte) {
			p := f.payload("pi-1", 1, "greenhouse/1.0.0.json")
			p.Releases[0].Version, p.Releases[0].Target = "1.0.1", "greenhouse/1.0.1.json"
			files["desired.json"] = f.sign(p, f.direct)
		}},
		{"desired-below-floor", BelowFloor, 0, func(f *testFleet, files map[string][]byte) {
			f.push(manifest("greenhouse", "2.0.0", "1.5.0"), t0)
			files["targets.json"], files["snapshot.json"], files["timestamp.json"] = f.targets, f.snapshot, f.timestamp
		}},
		{"mixed-snapshot-and-targets", Mismatch, 0, func(f *testFleet, files map[string][]byte) {
			b, err := AddRelease(nil, manifest("greenhouse", "3.0.0", ""), t0.Add(90*day), f.releaseKey)
			must(t, err)
			files["targets.json"] = b
		}},
		{"release-of-other-bytes", Mismatch, 0, func(_ *testFleet, files map[string][]byte) {
			files["release.json"] = bytes.Replace(m, []byte(`"size":4`), []byte(`"size":5`), 1)
		}},
		{"cut-timestamp", Malformed, 0, func(f *testFleet, files map[string][]byte) {
			files["timestamp.json"] = f.timestamp[:len(f.timestamp)/2]
		}},
	} {
		f := newFleet(t, "green")
		files := map[string][]byte{"1.root.json": f.rootFile, "timestamp.json": f.timestamp, "snapshot.json": f.snapshot,
			"targets.json": f.targets, "release.json": m, "desired.json": f.desired("pi-1", 1, "greenhouse/1.0.0.json")}
		if c.story != nil {
			c.story(f, files)
		}
		var err error
		files["case.json"], err = json.Marshal(vectorCase{t0.Add(c.after), "pi-1", c.want})
		must(t, err)
		dir := filepath.Join(vectors, c.name)
		must(t, os.MkdirAll(dir, 0o755))
		for name, b := range files {
			must(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
		}
	}
}

// wire and trust read the same payload: what wire's vectors say passes here too, and what they refuse doesn't.
func TestDesiredPayloadIsTheOneOfWire(t *testing.T) {
	for _, kind := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join("../../test/vectors/wire", kind, "desired.*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s vectors: %v", kind, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			must(t, err)
			if _, err := parseDesired(b); (err == nil) != (kind == "good") {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	files, err := filepath.Glob("../../test/vectors/wire/good/release.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no releases: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		must(t, err)
		r, err := Unverified(b)
		if err != nil || !r.Local() || len(r.Components()) == 0 || r.Version() == "" {
			t.Errorf("%s: %v", file, err)
		}
	}
}
