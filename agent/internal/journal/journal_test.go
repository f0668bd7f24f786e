package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const testSalt = 0x1234567890abcdef

func seed(t testing.TB) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if v := os.Getenv("JOURNAL_TEST_SEED"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("JOURNAL_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

func payload(seq uint64, n int) []byte {
	p := binary.LittleEndian.AppendUint64(nil, seq)
	for len(p) < n {
		p = append(p, byte(len(p))^byte(seq))
	}
	return p
}

// build a file of 40 sectors in which frames up to last were written, beginning again from the start after each that is
// named in folds. It gives the file and the frames since the last fold.
func build(t testing.TB, sizes []int, folds map[uint64]bool) (data []byte, after uint64, live []Frame) {
	t.Helper()
	f := &memory{data: make([]byte, 40*SectorSize)}
	j := New(f, int64(len(f.data)), testSalt)
	for i, n := range sizes {
		seq := uint64(i + 1)
		if !j.Fits(n) {
			t.Fatalf("frame %d of %d bytes has no room", seq, n)
		}
		p := payload(seq, n)
		if err := j.Append(seq, p); err != nil {
			t.Fatal(err)
		}
		live = append(live, Frame{seq, p})
		if folds[seq] {
			j.Reset()
			live, after = nil, seq
		}
	}
	return f.data, after, live
}

type memory struct{ data []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.data[off:], p), nil }
func (m *memory) Sync() error                              { return nil }

func same(a, b []Frame) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Seq != b[i].Seq || !bytes.Equal(a[i].Payload, b[i].Payload) {
			return false
		}
	}
	return true
}

var history = []int{8, 492, 493, 2000, 100, 8, 1500, 8, 3000, 700, 300, 300}

func TestFramesAreReadBackBehindTheLastFold(t *testing.T) {
	for _, folds := range []map[uint64]bool{{}, {4: true}, {4: true, 9: true}, {12: true}} {
		data, after, live := build(t, history, folds)
		if got := Scan(data, testSalt, after); !same(got.Frames, live) || got.Damage != nil || got.Newest != 12 {
			t.Errorf("folds %v: %d frames of %d, newest %d, damage %v", folds, len(got.Frames), len(live), got.Newest, got.Damage)
		}
	}
}

// The database is ahead of the journal's reset when the power is cut in between.
func TestFramesThatTheDatabaseHasAreNotReadAgain(t *testing.T) {
	data, _, _ := build(t, history, nil)
	if got := Scan(data, testSalt, 12); len(got.Frames) != 0 || got.Damage != nil || got.Newest != 12 {
		t.Errorf("got %+v", got)
	}
}

func TestATornLastFrameIsCutInEveryMixtureOfItsSectors(t *testing.T) {
	sizes := append(slices.Clone(history), 3000) // 7 sectors
	for _, folds := range []map[uint64]bool{{}, {4: true}, {12: true}} {
		before, after, live := build(t, history, folds)
		data, _, all := build(t, sizes, folds)
		at := 0
		for _, f := range live {
			at += Sectors(len(f.Payload))
		}
		n := Sectors(3000)
		for mixture := range 1 << n {
			torn := bytes.Clone(before)
			for i := range n {
				if mixture&(1<<i) != 0 {
					copy(torn[(at+i)*SectorSize:][:SectorSize], data[(at+i)*SectorSize:])
				}
			}
			got := Scan(torn, testSalt, after)
			want := live
			if mixture == 1<<n-1 {
				want = all
			}
			if !same(got.Frames, want) || got.Damage != nil {
				t.Fatalf("folds %v, mixture %b: %d frames of %d, damage %v", folds, mixture, len(got.Frames), len(want), got.Damage)
			}
			if mixture != 0 && got.Newest != 13 {
				t.Fatalf("folds %v, mixture %b: newest %d, want 13, whose number must not be used again", folds, mixture, got.Newest)
			}
		}
	}
}

// Every bit of every sector's head, one of each byte of the rest; the last frame included.
func TestAFlippedBitIsDamageNeverAShorterOrAnotherHistory(t *testing.T) {
	r := seed(t)
	for _, folds := range []map[uint64]bool{{}, {9: true}} {
		data, after, live := build(t, history, folds)
		used := 0
		for _, f := range live {
			used += Sectors(len(f.Payload))
		}
		b := bytes.Clone(data)
		for bit := 0; bit < len(data)*8; bit++ {
			if bit/8%SectorSize >= headSize+lengthSize {
				if bit%8 != 0 {
					continue
				}
				bit += r.IntN(8)
			}
			copy(b, data)
			b[bit/8] ^= 1 << (bit % 8)
			got := Scan(b, testSalt, after)
			for i, f := range got.Frames {
				if i >= len(live) || f.Seq != live[i].Seq || !bytes.Equal(f.Payload, live[i].Payload) {
					t.Fatalf("bit %d: frame %d is wrong", bit, f.Seq)
				}
			}
			if sector := bit / 8 / SectorSize; sector < used && got.Damage == nil {
				t.Fatalf("bit %d in sector %d of %d: %d frames of %d, and no damage", bit, sector, used, len(got.Frames), len(live))
			} else if sector >= used && len(got.Frames) != len(live) {
				t.Fatalf("bit %d behind the end: %d frames of %d", bit, len(got.Frames), len(live))
			}
		}
	}
}

func TestALostWriteInTheMiddleIsDamage(t *testing.T) {
	data, after, live := build(t, history, nil)
	at := 0
	for i, f := range live[:len(live)-1] {
		b := bytes.Clone(data)
		clear(b[at*SectorSize:][:SectorSize])
		at += Sectors(len(f.Payload))
		if got := Scan(b, testSalt, after); got.Damage == nil || len(got.Frames) != i || got.Newest != 12 {
			t.Errorf("frame %d is gone: %d frames, newest %d, damage %v", f.Seq, len(got.Frames), got.Newest, got.Damage)
		}
	}
}

func TestAPayloadThatLooksLikeSectorsIsNone(t *testing.T) {
	forged := Encode(nil, testSalt+1, 3, 99, payload(99, 5000)) // the salt is what a guest can't know
	f := &memory{data: make([]byte, 40*SectorSize)}
	j := New(f, int64(len(f.data)), testSalt)
	if err := j.Append(1, payload(1, 100)); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(2, forged); err != nil {
		t.Fatal(err)
	}
	clear(f.data[SectorSize:][:SectorSize]) // the second is torn
	if got := Scan(f.data, testSalt, 0); len(got.Frames) != 1 || got.Damage != nil || got.Newest != 2 {
		t.Errorf("got %d frames, newest %d, damage %v", len(got.Frames), got.Newest, got.Damage)
	}
}

func TestAJournalOfAnotherDatabaseIsDamage(t *testing.T) {
	data, _, _ := build(t, history, nil)
	if got := Scan(data, testSalt+1, 0); len(got.Frames) != 0 || got.Damage == nil {
		t.Errorf("got %d frames, damage %v", len(got.Frames), got.Damage)
	}
}

func TestAFailedAppendIsAnErrorAndFitsIsExact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path, make([]byte, 4*SectorSize), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path) // for reading
	if err != nil {
		t.Fatal(err)
	}
	j := New(f, 4*SectorSize, testSalt)
	if !j.Fits(4*bodySize-lengthSize) || j.Fits(4*bodySize-lengthSize+1) {
		t.Error("Fits is not exact")
	}
	if err := j.Append(1, nil); err == nil {
		t.Error("a write that the kernel refuses is no error")
	}
	if j.Fits(1) {
		t.Error("it goes on behind a frame of which nobody knows whether it is there")
	}
	if j.Reset(); !j.Fits(1) || j.Used() != 0 {
		t.Error("it does not begin again")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzScan(f *testing.F) {
	data, after, _ := build(f, []int{8, 600, 20, 300}, map[uint64]bool{1: true})
	f.Add(data[:6*SectorSize], after)
	f.Add(data[:3*SectorSize-100], after)
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, after uint64) {
		got := Scan(data, testSalt, after)
		at := 0
		var again []byte
		for i, fr := range got.Frames { // what decodes, encodes to the same bytes again
			if fr.Seq != after+1+uint64(i) {
				t.Fatalf("frame %d has number %d", i, fr.Seq)
			}
			again = Encode(again, testSalt, at, fr.Seq, fr.Payload)
			at += Sectors(len(fr.Payload))
		}
		if !bytes.Equal(again, data[:len(again)]) {
			t.Fatal("frames encode to other bytes than they were read from")
		}
		if got.Newest < after {
			t.Fatalf("newest %d is below %d", got.Newest, after)
		}
	})
}

func BenchmarkScan1MiB(b *testing.B) {
	f := &memory{data: make([]byte, 1<<20)}
	j := New(f, 1<<20, testSalt)
	for seq := uint64(1); j.Fits(300); seq++ {
		if err := j.Append(seq, payload(seq, 300)); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(1 << 20)
	for b.Loop() {
		Scan(f.data, testSalt, 0)
	}
}
