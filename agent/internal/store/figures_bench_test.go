package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkFigureEvents: what an event of 200 bytes costs, alone and among those of 64 publishers with 16 in flight each.
func BenchmarkFigureEvents(b *testing.B) {
	for _, d := range []Durability{Sync, Batch, Memory} {
		if d != Batch { // alone it is Sync, and late
			b.Run(d.String()+"/lone", func(b *testing.B) { events(b, d, 1, 0) })
		}
		b.Run(d.String()+"/busy", func(b *testing.B) { events(b, d, 64*16, 0) })
	}
}

// BenchmarkFigureSlow: the same where each fdatasync of the journal takes 5 ms longer, as on a slow card. (Those of the database, two for
// each fold, don't.)
func BenchmarkFigureSlow(b *testing.B) {
	b.Run("lone", func(b *testing.B) { events(b, Sync, 1, 5*time.Millisecond) })
	b.Run("busy", func(b *testing.B) { events(b, Sync, 64*16, 5*time.Millisecond) })
}

// events reports B/event, which are the bytes of all write calls, and block-B/event, which are whole blocks of 4 KiB: a disk writes
// no less.
func events(b *testing.B, d Durability, publishers int, delay time.Duration) {
	s := benchStore(b)
	must(b, s.Close()) // folds what was made
	s = open(b, filepath.Dir(s.Path()))
	g := gateOf(s)
	g.delay = delay
	value := bytes.Repeat([]byte("x"), 200)
	var next atomic.Int64
	w0, blocks, journaled := written(b), g.blocks.Load(), g.bytes.Load()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range publishers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				tx := s.Begin("app").Durable(d)
				err := tx.Set("default", fmt.Sprint((w*7+int(i))%1000), value)
				if err == nil {
					err = tx.Commit(ctx)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	elapsed := b.Elapsed()
	b.StopTimer()
	must(b, s.Close()) // its last fold counts, as each one does
	all := written(b) - w0
	b.ReportMetric(float64(all)/float64(b.N), "B/event")
	b.ReportMetric(float64(all-(g.bytes.Load()-journaled)+4096*(g.blocks.Load()-blocks))/float64(b.N), "block-B/event")
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "events/s")
}

// BenchmarkFigureRecovery opens a store after a power cut: 100,000 messages of 200 bytes wait, and the journal is full.
func BenchmarkFigureRecovery(b *testing.B) {
	s := open(b, b.TempDir())
	value := bytes.Repeat([]byte("x"), 200)
	add := func(n int) {
		tx := s.Begin("app")
		for range n {
			must(b, tx.Publish("t", value, 1, false))
		}
		must(b, tx.Commit(ctx))
	}
	for range 10 {
		add(9500)
	}
	for range 5000 {
		add(1)
	}
	var each []time.Duration
	for b.Loop() {
		b.StopTimer()
		dir := copyStore(b, s)
		b.StartTimer()
		begun := time.Now()
		again, err := Open(dir, quiet, atTestTime)
		each = append(each, time.Since(begun))
		must(b, err)
		b.StopTimer()
		m, err := again.Outbox(99_999, 2)
		if err != nil || len(m) != 1 {
			b.Fatalf("%d messages, %v", len(m), err)
		}
		must(b, again.Close())
		b.StartTimer()
	}
	total := time.Duration(0)
	for _, d := range each {
		total += d
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(len(each)), "open-ms")
}
