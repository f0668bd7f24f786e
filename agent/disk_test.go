package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// smallDisk is a real file system of so many bytes, and a way to leave only so many of it free.
func smallDisk(t *testing.T, size int64) (dir string, leave func(free int64)) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("dunlin-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Logf("ABSENT: the right to mount a tmpfs (%v): what an agent does on a full disk is not tried", err)
		t.SkipNow()
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func(free int64) {
		t.Helper()
		filler := filepath.Join(dir, "filler")
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		n := int64(fs.Bavail)*int64(fs.Bsize) - free //nolint:unconvert // 32 bits wide on some machines
		if n <= 0 {
			return
		}
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), 0, 0, n); err != nil {
			t.Fatal(err)
		}
	}
}

const all = 1 << 40 // more than there is

func TestAFullDiskShedsWhatIsWorthLeastAndKeepsWhatRunsAndWasAccepted(t *testing.T) {
	t.Parallel()
	dir, leave := smallDisk(t, 96<<20)
	f := newFleet(t)
	b := boardIn(t, f, dir, func(c *Config) { c.Disk.KeepFree, c.look = "8MiB", 20*time.Millisecond })
	f.install(f.push("1.0.0", hello1, nil))
	f.down()

	// Messages wait for the fleet, an accepted event for a handler that isn't here.
	b.agent.store.SetUplinkRules(app, []store.UplinkRule{{Filter: "low", Priority: store.Low}, {Filter: "high", Priority: store.High}})
	for i := range 300 {
		tx := b.agent.store.Begin(app)
		for _, topic := range []string{"low", "plain", "high"} {
			must(t, tx.Publish("uplink:"+topic, make([]byte, 16<<10), 1, false))
		}
		must(t, tx.Commit(t.Context()))
		_ = i
	}
	e := inbox.Event{Number: b.agent.inbox.Number(), Trigger: app + "/none", At: time.Now(), Message: trigger.Message{Topic: "t", QoS: 1}}
	a, err := b.agent.inbox.Accept([]inbox.Event{e}, trigger.Ends{}, nil)
	must(t, err)
	must(t, a.Wait(t.Context()))
	waits := func() map[string]int {
		n := map[string]int{}
		for _, l := range b.agent.store.Lanes() {
			n[strings.TrimPrefix(l.Topic, "uplink:")] = l.Messages
		}
		return n
	}
	if w := waits(); w["low"] != 300 || w["plain"] != 300 || w["high"] != 300 {
		t.Fatalf("%v wait", w)
	}

	leave(2 << 20) // 6 MiB are missing: more than all of low, less than that and plain
	eventually(t, "it says that its disk is degraded", func() bool { return strings.Contains(b.get("/.well-known/dunlin/health"), `"disk":"degraded: `) })
	eventually(t, "it has shed enough", func() bool { _, missing := b.agent.short(); return missing == 0 })
	if w := waits(); w["low"] != 0 || w["plain"] == 0 || w["plain"] == 300 || w["high"] != 300 {
		t.Errorf("%v wait: want those of low gone, then some of plain, and none of high", w)
	}
	if b.agent.inbox.Counts().Waiting != 1 {
		t.Error("the accepted event is gone")
	}
	b.serves(app + " 1.0.0")
	if n := b.agent.store.UplinkStats().Dropped[store.DroppedDisk]; n == 0 {
		t.Error("what was dropped is not counted")
	}

	leave(0) // others take the rest: nothing is lost, and the agent stands
	b.serves(app + " 1.0.0")
	if _, err := b.agent.check(t.Context()); err != nil {
		t.Errorf("a full disk fails the health check, which would start the agent again and again: %v", err)
	}
	leave(all)
	eventually(t, "its disk is well again", func() bool { return strings.Contains(b.get("/.well-known/dunlin/health"), `"disk":"ok"`) })
	must(t, b.agent.store.Check(t.Context()))
}

func TestAReleaseWithoutRoomIsRefusedBeforeItsTransferAndInstalledWhenThereIsSome(t *testing.T) {
	t.Parallel()
	dir, leave := smallDisk(t, 96<<20)
	f := newFleet(t)
	b := boardIn(t, f, dir, func(c *Config) {
		c.Disk.KeepFree, c.look = "8MiB", 20*time.Millisecond
		c.rest = func(int, float64) time.Duration { return time.Hour } // only the room brings it back
	})
	f.install(f.push("1.0.0", hello1, nil))
	leave(2 << 20)
	r := f.await("that the disk is degraded", func(r wire.Reported) bool { return r.Disk != nil })
	if r.Disk.Keep != 8<<20 || r.Disk.Free > 2<<20 {
		t.Errorf("reported %+v", r.Disk)
	}
	second := f.push("2.0.0", hello2, nil)
	f.desire(second)
	r = f.await("that it has no room", func(r wire.Reported) bool { return strings.Contains(complaints(r), "the disk has no room") })
	if text := complaints(r); !strings.Contains(text, "are needed") || !strings.Contains(text, "disk.keep_free") {
		t.Errorf("it says %q", text)
	}
	if partial, err := b.agent.store.Transfers(); err != nil || len(partial) > 0 {
		t.Errorf("transfers %v were begun, %v", partial, err)
	}
	b.serves(app + " 1.0.0")
	leave(all)
	r = f.await("the second version", func(r wire.Reported) bool { return runs(r, second) })
	if r.Disk != nil {
		t.Errorf("reported %+v", r.Disk)
	}
}

func TestAFullDiskDropsTheReleaseToGoBackTo(t *testing.T) {
	t.Parallel()
	dir, leave := smallDisk(t, 96<<20)
	f := newFleet(t)
	b := boardIn(t, f, dir, func(c *Config) { c.Disk.KeepFree, c.look = "8MiB", 20*time.Millisecond })
	first := f.push("1.0.0", hello1, nil)
	f.install(first)
	f.install(f.push("2.0.0", hello2, nil))
	has := func(wasm []byte) bool {
		there, err := b.agent.store.HasBlob(wire.Sum(wasm).String())
		must(t, err)
		return there
	}
	if !has(hello1) || !has(hello2) {
		t.Fatal("want both releases here")
	}
	leave(1 << 20)
	eventually(t, "the first is dropped", func() bool { return !has(hello1) })
	if !has(hello2) {
		t.Error("the running one is dropped")
	}
	b.serves(app + " 2.0.0")
	leave(all)
	f.install(first) // it comes again
	b.serves(app + " 1.0.0")
}
