//go:build !race

// Traced, a process with the race detector takes minutes.

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A run is recorded: each write and each sync of each file, and what had been acknowledged in between. Then the power is cut
// after each of them: of what no sync covers, any part of any write may be on the disk. Each disk that can be left is opened and
// compared with what the run had been told.

const (
	powerEvents = 60
	powerKeys   = 7
)

// powerDurability of an event: others than Sync come along.
func powerDurability(i int) Durability {
	if i%5 == 3 {
		return Memory
	}
	return Sync
}

// powerBlob of an event; nil is none.
func powerBlob(i int) (string, []byte) {
	if i%20 != 10 {
		return "", nil
	}
	return randomBlob(rand.New(rand.NewPCG(uint64(i), 3)), 9000)
}

func init() { roles["STORE_TEST_POWER"] = powerRun }

// powerRun is the process that is recorded. It goes on after errors: each is told, and the event is tried again a few times.
func powerRun(dir string) {
	journalSize = 16 << 10
	say := func(format string, args ...any) {
		if _, err := os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n"); err != nil {
			os.Exit(1)
		}
	}
	s, err := Open(dir, quiet, atTestTime)
	if err != nil {
		say("failed to open: %v", err)
		os.Exit(0)
	}
	say("open")
	failures := 0
	for i := 1; i <= powerEvents && failures < 5; {
		digest, data := powerBlob(i)
		var err error
		if data != nil {
			if err = s.PutBlob(digest, int64(len(data)), bytes.NewReader(data)); err == nil {
				say("blob %d", i)
			}
		}
		if err == nil {
			err = powerEvent(s, i)
		}
		if err != nil {
			say("error %d: %v", i, err)
			failures++
			continue
		}
		say("%v %d", powerDurability(i), i)
		if i == powerEvents/3 || i == powerEvents*2/3 {
			if err := compactAnyway(s); err != nil {
				say("error %d: %v", i, err)
			}
		}
		if i%3 == 0 {
			say("delivered %d", i-1)
			if err := s.Delivered(uint64(i - 1)); err != nil {
				say("error %d: %v", i, err)
			}
		}
		i++
	}
	if err := s.Close(); err != nil {
		say("error close: %v", err)
	}
	os.Exit(0)
}

func powerEvent(s *Store, i int) error {
	tx := s.Begin("app").Durable(powerDurability(i))
	v, _, err := tx.Get("default", "count")
	if err != nil {
		return err
	}
	if n, _ := strconv.Atoi(string(v)); n != i-1 {
		return fmt.Errorf("WRONG: count is %q before event %d", v, i)
	}
	err = tx.Set("default", "count", []byte(strconv.Itoa(i)))
	if err == nil {
		err = tx.Set("default", fmt.Sprint("k", i%powerKeys), bytes.Repeat([]byte{byte(i)}, 40*i%1300))
	}
	if err == nil && i%4 == 0 {
		err = tx.Delete("default", fmt.Sprint("k", (i+1)%powerKeys))
	}
	if err == nil {
		err = tx.Publish("t", []byte(strconv.Itoa(i)), 1, false)
	}
	if err == nil {
		err = tx.Commit(context.Background())
	}
	return err
}

// powerModel is what there is after n events.
func powerModel(n int) map[string]string {
	m := map[string]string{}
	for i := 1; i <= n; i++ {
		m["count"] = strconv.Itoa(i)
		m[fmt.Sprint("k", i%powerKeys)] = strings.Repeat(string([]byte{byte(i)}), 40*i%1300)
		if i%4 == 0 {
			delete(m, fmt.Sprint("k", (i+1)%powerKeys))
		}
	}
	return m
}

// told is what a run has said so far.
type told struct {
	durable   int // the newest event that a power cut must not undo
	begun     int // the newest that may be there
	blobs     []int
	delivered map[int]bool
	errors    []string
}

func (a *told) hear(line string) {
	what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, _ := strconv.Atoi(rest)
	switch what {
	case "open":
		a.begun = 1
	case "sync":
		a.durable, a.begun = n, n+1
	case "memory":
		a.begun = n + 1
	case "blob":
		a.blobs = append(a.blobs, n)
	case "delivered":
		a.delivered[n] = true
	default:
		a.errors = append(a.errors, line)
	}
}

// check the store in dir against what was told. sound: the run met no damage, so that nothing may be set aside.
func (a *told) check(dir string) (err error) {
	s, err := Open(dir, quiet, atTestTime)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.Recovered() != "" {
		return errors.New("set aside " + s.Recovered())
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	tx := s.Begin("app")
	v, _, err := tx.Get("default", "count")
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(string(v))
	if n < a.durable || n > a.begun {
		return fmt.Errorf("%d events are there; %d were acknowledged, %d begun", n, a.durable, a.begun)
	}
	keys, err := tx.Keys("default", "", 0)
	if err != nil {
		return err
	}
	got := map[string]string{}
	for _, k := range keys {
		v, _, err := tx.Get("default", k)
		if err != nil {
			return err
		}
		got[k] = string(v)
	}
	if !maps.Equal(got, powerModel(n)) {
		return fmt.Errorf("event %d is there in part: %q", n, slices.Collect(maps.Keys(got)))
	}
	messages, err := s.Outbox(0, 1000)
	if err != nil {
		return err
	}
	there := map[int]bool{}
	for _, m := range messages {
		if string(m.Payload) != fmt.Sprint(m.ID) {
			return fmt.Errorf("message %d says %q", m.ID, m.Payload)
		}
		there[int(m.ID)] = true
	}
	for i := 1; i <= powerEvents; i++ {
		if i > n && there[i] || i <= n && !there[i] && !a.delivered[i] {
			return fmt.Errorf("%d events, and message %d: %v", n, i, there[i])
		}
	}
	for _, i := range a.blobs {
		digest, want := powerBlob(i)
		if got, ok, err := s.Blob(digest); err != nil || !ok || !bytes.Equal(got, want) {
			return fmt.Errorf("blob %d: there %v, %w", i, ok, errors.Join(err, errors.New("not as it was")))
		}
	}
	return nil
}

const tracedCalls = "trace=openat,write,pwrite64,fdatasync,fsync,ftruncate,rename,renameat,renameat2,unlink,unlinkat"

func TestAPowerCutAfterAnyWriteLosesNothingThatWasAcknowledged(t *testing.T) {
	before := journalSize
	journalSize = 16 << 10
	t.Cleanup(func() { journalSize = before })
	dir := t.TempDir()
	calls, _ := straced(t, []string{"STORE_TEST_POWER=" + dir}, "-e", tracedCalls)
	r := seed(t)
	samples, step := 6, 1
	if testing.Short() {
		samples, step = 2, 5
	}
	d := newDisk(dir)
	acks := &told{delivered: map[int]bool{}}
	cuts, folds := 0, 0
	target := t.TempDir()
	for i, c := range calls {
		if c.name == "write" && strings.HasPrefix(c.args[0], "1<") {
			acks.hear(c.args[1])
		} else if !d.carry(i, c) {
			continue
		}
		if (c.name == "fdatasync" || c.name == "fsync") && strings.HasSuffix(c.path(), "store.db") {
			folds++
		}
		if i%step != 0 {
			continue
		}
		for _, pick := range d.picks(r, samples) {
			must(t, d.leave(target, pick))
			cuts++
			if err := acks.check(target); err != nil {
				t.Fatalf("power cut after call %d (%s), %d of which acknowledged: %v", i, c.name, acks.durable, err)
			}
		}
	}
	if acks.durable < powerEvents-1 || len(acks.errors) > 0 || folds < 10 || cuts < 100 {
		t.Errorf("the run shows too little: %d events, %d syncs of the database, %d cuts, errors %q", acks.durable, folds, cuts, acks.errors)
	}
	t.Logf("%d calls, %d syncs of the database, %d cuts", len(calls), folds, cuts)
}

// A disk that fails at one call, for each of them in turn: the run goes on or stops with an error, and what it was told is there.
func TestADiskThatFailsAtAnyCallLosesNothingThatWasAcknowledged(t *testing.T) {
	before := journalSize
	journalSize = 16 << 10
	t.Cleanup(func() { journalSize = before })
	r, step := seed(t), 4 // each call would take a minute; every run looks at others
	if testing.Short() {
		step = 12
	}
	for _, fault := range []string{"pwrite64:error=ENOSPC", "pwrite64:error=EIO", "fdatasync:error=EIO"} {
		t.Run(fault, func(t *testing.T) {
			runs, failed := 0, 0
			for n := 1 + r.IntN(step); ; n += step {
				dir := t.TempDir()
				calls, injected := straced(t, []string{"STORE_TEST_POWER=" + dir, "GOMAXPROCS=1"},
					"-e", "trace=write,"+strings.Split(fault, ":")[0], "-e", fmt.Sprintf("inject=%s:when=%d", fault, n))
				if injected == 0 {
					break
				}
				runs++
				acks := &told{delivered: map[int]bool{}}
				for _, c := range calls {
					if c.name == "write" && strings.HasPrefix(c.args[0], "1<") {
						acks.hear(c.args[1])
					}
				}
				if len(acks.errors) > 0 {
					failed++
				}
				if strings.Contains(strings.Join(acks.errors, "\n"), "WRONG") {
					t.Errorf("call %d: %q", n, acks.errors)
				}
				acks.durable = max(acks.durable, acks.begun-2) // it was closed, or the next one failed
				if err := acks.check(dir); err != nil {
					t.Errorf("call %d: %v (the run said %q)", n, err, acks.errors)
				}
			}
			t.Logf("%d runs, %d with an error that the caller saw", runs, failed)
			if failed == 0 {
				t.Error("nobody saw a failure: the test shows nothing")
			}
		})
	}
}

// disk is what the calls of a run have done: what lies on it for good, and what may.
type disk struct {
	dir    string
	files  []*inode
	names  map[string]*inode   // for good
	links  []map[string]*inode // after each change to the directory that no sync covers, in their order
	kernel map[string]*inode   // what the process sees
}

type inode struct {
	safe    []byte
	pending []change
}

// change to a file: bytes at an offset, or a new size.
type change struct {
	number int
	off    int64
	data   []byte
	size   int64 // -1: none
}

func newDisk(dir string) *disk {
	return &disk{dir: dir, names: map[string]*inode{}, kernel: map[string]*inode{}}
}

// carry out a call; false if it changes nothing that matters.
func (d *disk) carry(number int, c call) bool {
	name := func(path string) (string, bool) {
		n, ok := strings.CutPrefix(path, d.dir+"/")
		return n, ok && n != "store.lock"
	}
	link := func(f func()) bool {
		f()
		d.links = append(d.links, maps.Clone(d.kernel))
		return true
	}
	switch c.name {
	case "openat":
		n, ok := name(c.args[1])
		if ok && d.kernel[n] == nil && strings.Contains(c.args[2], "O_CREAT") {
			return link(func() {
				f := &inode{}
				d.files = append(d.files, f)
				d.kernel[n] = f
			})
		}
	case "rename", "renameat", "renameat2":
		paths := slices.DeleteFunc(slices.Clone(c.args), func(a string) bool { return !strings.HasPrefix(a, d.dir) })
		from, _ := name(paths[0])
		to, _ := name(paths[1])
		return link(func() { d.kernel[to] = d.kernel[from]; delete(d.kernel, from) })
	case "pwrite64", "write", "ftruncate":
		n, ok := name(c.path())
		if !ok {
			return false
		}
		w := change{number: number, size: -1}
		switch c.name {
		case "pwrite64":
			w.data, w.off = []byte(c.args[1]), c.number(3)
		case "write": // only files that are written once, from their start
			w.data = []byte(c.args[1])
		default:
			w.size = c.number(1)
		}
		d.kernel[n].pending = append(d.kernel[n].pending, w)
		return true
	case "fsync", "fdatasync":
		if c.path() == d.dir {
			if len(d.links) > 0 {
				d.names, d.links = d.links[len(d.links)-1], nil
			}
			return true
		}
		n, ok := name(c.path())
		if !ok {
			return false
		}
		f := d.kernel[n]
		f.pending = slices.DeleteFunc(f.pending, func(w change) bool {
			if w.number >= c.begun { // another thread wrote it while the sync ran
				return false
			}
			f.safe = w.apply(f.safe, func(int64) bool { return true })
			return true
		})
		return true
	}
	return false
}

// apply the sectors of a change that there says are on the disk.
func (w change) apply(b []byte, there func(sector int64) bool) []byte {
	if w.size >= 0 {
		return append(b[:min(int64(len(b)), w.size)], make([]byte, max(0, w.size-int64(len(b))))...)
	}
	for i := int64(0); i < int64(len(w.data)); {
		n := min(512-(w.off+i)%512, int64(len(w.data))-i)
		if there((w.off + i) / 512) {
			if end := w.off + i + n; end > int64(len(b)) {
				b = append(b, make([]byte, end-int64(len(b)))...)
			}
			copy(b[w.off+i:], w.data[i:i+n])
		}
		i += n
	}
	return b
}

// pick says what of the changes that no sync covers is there.
type pick struct {
	links int
	there func(w change) func(sector int64) bool
}

// picks are: each subset of the changes, where they are few, whole and with the newest one torn in its middle; and random mixtures
// of sectors.
func (d *disk) picks(r *rand.Rand, samples int) (all []pick) {
	var numbers []int
	for _, f := range d.files {
		for _, w := range f.pending {
			numbers = append(numbers, w.number)
		}
	}
	slices.Sort(numbers)
	links := func() int { return r.IntN(len(d.links) + 1) }
	if len(numbers) <= 3 {
		for set := range 1 << len(numbers) {
			for _, torn := range []bool{false, true} {
				if torn && set == 0 {
					continue
				}
				all = append(all, pick{links(), func(w change) func(int64) bool {
					i := slices.Index(numbers, w.number)
					return func(sector int64) bool {
						half := (w.off + int64(len(w.data))/2) / 512
						return set&(1<<i) != 0 && (!torn || set>>(i+1) != 0 || sector < half)
					}
				}})
			}
		}
	}
	for range samples {
		if len(numbers) == 0 {
			break
		}
		odds := []float64{0.1, 0.5, 0.9}[r.IntN(3)]
		all = append(all, pick{links(), func(change) func(int64) bool {
			return func(int64) bool { return r.Float64() < odds }
		}})
	}
	return all
}

// leave what a power cut leaves in dir.
func (d *disk) leave(dir string, p pick) error {
	old, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	names := d.names
	if p.links > 0 {
		names = d.links[p.links-1]
	}
	for name, f := range names {
		b := bytes.Clone(f.safe)
		for _, w := range f.pending {
			there := p.there(w)
			if w.size >= 0 && !there(w.off/512) {
				continue
			}
			b = w.apply(b, there)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
