package space

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const mb = 1e6

func TestHowMuchIsKeptFreeIsReadAsBytesOrAsAShare(t *testing.T) {
	for text, want := range map[string]int64{"": 50 * mb, "10MB": 10 * mb, "1MiB": 1 << 20, "10%": 100 * mb, "2.5 %": 25 * mb, "0B": 0} {
		k, err := ParseKeep(text)
		if err != nil || k.Of(1000*mb) != want {
			t.Errorf("%q keeps %d, %v; want %d", text, k.Of(1000*mb), err, want)
		}
	}
	if k, _ := ParseKeep(""); k.Of(1e12) != 64<<20 {
		t.Errorf("the default keeps %d of a large disk", k.Of(1e12))
	}
	for _, text := range []string{"10", "-1MB", "0%", "91%", "-5%", "NaN%", "x%", "MB"} {
		if k, err := ParseKeep(text); err == nil {
			t.Errorf("%q is %+v", text, k)
		}
	}
}

func TestADiskIsShortUntilThereIsClearlyRoomAgain(t *testing.T) {
	d := Disk{Keep: Keep{Bytes: 40 * mb}}
	for i, step := range []struct {
		free    int64
		short   bool
		changed bool
		every   time.Duration
	}{
		{500 * mb, false, false, time.Minute}, {100 * mb, false, false, 5 * time.Second}, {40 * mb, false, false, 5 * time.Second}, {39 * mb, true, true, time.Second},
		{0, true, false, time.Second}, {45 * mb, true, false, time.Second}, {50 * mb, false, true, 5 * time.Second}, {45 * mb, false, false, 5 * time.Second},
	} {
		if changed := d.Look(Room{Total: 1000 * mb, Free: step.free}); changed != step.changed || d.Short != step.short || d.Every() != step.every {
			t.Errorf("step %d: short %v, changed %v, every %s: want %+v", i, d.Short, changed, d.Every(), step)
		}
	}
}

func TestOnlyWhatTheDatabaseCantReuseIsShed(t *testing.T) {
	for _, c := range []struct{ free, reusable, missing int64 }{{100, 0, 0}, {30, 0, 10}, {30, 4, 6}, {30, 20, 0}, {0, 0, 40}} {
		d := Disk{Keep: Keep{Bytes: 40 * mb}}
		d.Look(Room{Total: 1000 * mb, Free: c.free * mb, Reusable: c.reusable * mb})
		if got := d.Missing(); got != c.missing*mb {
			t.Errorf("%+v: %d are missing", c, got)
		}
	}
}

func TestWhatDoesntFitIsToldInBytesAndWithTheWayOut(t *testing.T) {
	d := Disk{Keep: Keep{Bytes: 40 * mb}}
	d.Look(Room{Total: 1000 * mb, Free: 60 * mb, Reusable: 10 * mb})
	for _, c := range []struct{ database, files int64 }{{30 * mb, 0}, {10 * mb, 20 * mb}, {0, 20 * mb}} {
		if err := d.Fits(c.database, c.files); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []struct{ database, files int64 }{{31 * mb, 0}, {0, 21 * mb}} {
		err := d.Fits(c.database, c.files)
		var full *FullError
		if !errors.As(err, &full) || full.Need != 21*mb || full.Free != 60*mb || full.Keep != 40*mb {
			t.Fatalf("%+v: %v", c, err)
		}
		for _, word := range []string{"21.0 MB are needed", "60.0 MB free", "40.0 MB are kept", "keep_free"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q says nothing of %q", err, word)
			}
		}
	}
}

func FuzzParseKeep(f *testing.F) {
	for _, s := range []string{"", "5%", "64MiB", "-1%", "1e300%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKeep(s)
		if kept := k.Of(1000); err == nil && kept < 0 || k.Percent != 0 && kept > 900 {
			t.Errorf("%q keeps %d of 1000", s, kept)
		}
	})
}
