package store

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// written: bytes passed to write calls (wchar). write_bytes beside it counts the whole folio that a write made dirty, ten
// times what reaches the disk with ext4's large folios.
func written(b *testing.B) (n int64) {
	raw, err := os.ReadFile("/proc/self/io")
	must(b, err)
	for line := range strings.Lines(string(raw)) {
		_, _ = fmt.Sscanf(line, "wchar: %d", &n)
	}
	return n
}

// measureWrites reports bytes per commit and per event since it was called.
func measureWrites(b *testing.B, s *Store) (report func()) {
	w0 := written(b)
	c0 := s.commits.Load()
	return func() {
		b.StopTimer()
		w := written(b)
		commits := float64(s.commits.Load() - c0)
		b.ReportMetric(float64(w-w0)/commits, "B/commit")
		b.ReportMetric(float64(w-w0)/float64(b.N), "B/event")
		b.ReportMetric(float64(b.N)/commits, "events/commit")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	}
}

// BenchmarkJournalSize is why journalSize is what it is: bytes of a lone event, and how long the fold of a full journal takes.
func BenchmarkJournalSize(b *testing.B) {
	before := journalSize
	defer func() { journalSize = before }()
	for _, size := range []int64{0, 128 << 10, 512 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			journalSize = size
			s := benchStore(b)
			value := bytes.Repeat([]byte("x"), 200)
			report := measureWrites(b, s)
			for i := 0; b.Loop(); i++ {
				must(b, event(s, fmt.Sprint(i*7%1000), value, ""))
			}
			report()
			start := time.Now()
			must(b, s.fold())
			b.ReportMetric(float64(time.Since(start).Microseconds()), "us/last-fold")
		})
	}
}

// event reads and writes 200 bytes under one of many keys, and publishes where it is told to.
func event(s *Store, key string, value []byte, topic string) error {
	tx := s.Begin("app")
	if _, _, err := tx.Get("default", key); err != nil {
		return err
	}
	if err := tx.Set("default", key, value); err != nil {
		return err
	}
	if topic != "" {
		if err := tx.Publish(topic, value, 1, false); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

func benchStore(b *testing.B) *Store {
	s := open(b, b.TempDir())
	digest, data := randomBlob(seed(b), 12<<20) // so that there is something to have a free list of
	putBlob(b, s, digest, data)
	must(b, s.DeleteBlob(digest))
	tx := s.Begin("app")
	for i := range 1000 {
		must(b, tx.Set("default", fmt.Sprint(i), make([]byte, 200)))
	}
	must(b, tx.Commit(ctx))
	return s
}

func BenchmarkLoneCommit(b *testing.B) {
	for _, topic := range []string{"", "alerts/one"} {
		b.Run("publish="+fmt.Sprint(topic != ""), func(b *testing.B) {
			s := benchStore(b)
			value := bytes.Repeat([]byte("x"), 200)
			report := measureWrites(b, s)
			id := uint64(0)
			for i := 0; b.Loop(); i++ {
				must(b, event(s, fmt.Sprint(i%1000), value, topic))
				if topic != "" {
					id++
					must(b, s.Delivered(id))
				}
			}
			report()
		})
	}
}

func BenchmarkCommitters(b *testing.B) {
	for _, n := range []int{1, 64, 1000} {
		for _, hot := range []bool{false, true} {
			b.Run(fmt.Sprintf("n=%d/hot=%v", n, hot), func(b *testing.B) {
				s := benchStore(b)
				value := bytes.Repeat([]byte("x"), 200)
				var next, conflicts atomic.Int64
				report := measureWrites(b, s)
				b.ResetTimer()
				var wg sync.WaitGroup
				for w := range n {
					wg.Go(func() {
						key := fmt.Sprint(w)
						if hot {
							key = "one"
						}
						for next.Add(1) <= int64(b.N) {
							for event(s, key, value, "") != nil {
								conflicts.Add(1)
							}
						}
					})
				}
				wg.Wait()
				report()
				b.ReportMetric(float64(conflicts.Load())/float64(b.N), "conflicts/event")
			})
		}
	}
}

func BenchmarkBlob12MB(b *testing.B) {
	s := open(b, b.TempDir())
	digest, data := randomBlob(seed(b), 12<<20)
	b.SetBytes(int64(len(data)))
	report := measureWrites(b, s)
	for b.Loop() {
		putBlob(b, s, digest, data)
		if _, ok, err := s.Blob(digest); !ok || err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, s.DeleteBlob(digest))
		b.StartTimer()
	}
	report()
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	r := seed(b)
	for range 8 { // what a board with a few applications holds
		digest, data := randomBlob(r, 12<<20)
		putBlob(b, s, digest, data)
	}
	tx := s.Begin("app")
	for i := range 5000 {
		must(b, tx.Set("default", fmt.Sprint(i), make([]byte, 200)))
	}
	must(b, tx.Commit(ctx))
	must(b, s.Close())
	for b.Loop() {
		s, err := Open(dir, quiet, atTestTime)
		must(b, err)
		must(b, s.Close())
	}
}
