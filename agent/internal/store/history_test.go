package store

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// TestConcurrentHistoriesAreSerialisable runs random transactions over a few keys and replays them against a map. With a
// ticket, a number that each commit counts up, the serial order is known; without one only lost updates show.
func TestConcurrentHistoriesAreSerialisable(t *testing.T) {
	for _, ticketed := range []bool{true, false} { // without the ticket there are fewer conflicts, and other ones
		t.Run(fmt.Sprintf("ticketed=%v", ticketed), func(t *testing.T) { history(t, ticketed) })
	}
}

type op struct {
	reads  map[string]string
	keys   []string // of a whole listing; nil where none was made
	writes map[string]string
	ticket int
}

func history(t *testing.T, ticketed bool) {
	s := newStore(t)
	r := seed(t)
	const workers, rounds, keys = 8, 60, 4
	var mu sync.Mutex
	var done []op
	increments := [keys]int{}
	conflicts := 0
	var wg sync.WaitGroup
	for w := range workers {
		rnd := rand.New(rand.NewPCG(r.Uint64(), uint64(w)))
		wg.Go(func() {
			for i := range rounds {
				plan := rnd.Uint64()
				for {
					o, incremented, err := attempt(s, rand.New(rand.NewPCG(plan, 0)), keys, ticketed, fmt.Sprintf("%d.%d", w, i))
					mu.Lock()
					if errors.Is(err, ErrConflict) {
						conflicts++
						mu.Unlock()
						continue
					}
					if err != nil {
						t.Error(err)
					} else {
						done = append(done, o)
						for _, k := range incremented {
							increments[k]++
						}
					}
					mu.Unlock()
					break
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d transactions, %d conflicts, %d commits", len(done), conflicts, s.commits.Load())
	for k := range keys {
		if got := get(t, s, "app", fmt.Sprintf("count%d", k)); got != strconv.Itoa(increments[k]) && !(got == "(none)" && increments[k] == 0) {
			t.Errorf("count%d is %s after %d increments: an update was lost", k, got, increments[k])
		}
	}
	if !ticketed {
		return
	}
	slices.SortStableFunc(done, func(a, b op) int { return a.ticket - b.ticket })
	model := map[string]string{}
	for i, o := range done {
		if o.ticket != i {
			t.Fatalf("ticket %d was given as number %d", o.ticket, i)
		}
		for k, v := range o.reads {
			if got, ok := model[k]; !ok && v != "(none)" || ok && got != v {
				t.Fatalf("transaction %d read %s=%q, a serial run has %q", i, k, v, got)
			}
		}
		if o.keys != nil {
			if want := slices.Sorted(maps.Keys(model)); !slices.Equal(o.keys, want) && len(o.keys)+len(want) > 0 {
				t.Fatalf("transaction %d listed %q, a serial run has %q", i, o.keys, want)
			}
		}
		for k, v := range o.writes {
			if v == "(none)" {
				delete(model, k)
			} else {
				model[k] = v
			}
		}
	}
}

// attempt runs one transaction of a plan: increments, copies, deletes and listings, some of them reading only.
func attempt(s *Store, r *rand.Rand, keys int, ticketed bool, name string) (o op, incremented []int, err error) {
	o = op{reads: map[string]string{}, writes: map[string]string{}}
	tx := s.Begin("app")
	read := func(key string) (string, error) {
		v, ok, err := tx.Get("default", key)
		got := string(v)
		if !ok {
			got = "(none)"
		}
		if _, own := o.writes[key]; !own {
			o.reads[key] = got
		}
		return got, err
	}
	write := func(key, v string) error {
		o.writes[key] = v
		return tx.Set("default", key, []byte(v))
	}
	if r.IntN(4) == 0 {
		if o.keys, err = tx.Keys("default", "", 0); err != nil {
			return o, nil, err
		}
		if o.keys == nil {
			o.keys = []string{}
		}
	}
	for range 1 + r.IntN(3) {
		k := r.IntN(keys)
		key := fmt.Sprintf("count%d", k)
		switch r.IntN(4) {
		case 0, 1:
			v, err := read(key)
			if err != nil {
				return o, nil, err
			}
			n, _ := strconv.Atoi(v)
			if err := write(key, strconv.Itoa(n+1)); err != nil {
				return o, nil, err
			}
			incremented = append(incremented, k)
		case 2:
			v, err := read(key)
			if err != nil {
				return o, nil, err
			}
			if err := write(fmt.Sprintf("copy%d", r.IntN(keys)), name+":"+v); err != nil {
				return o, nil, err
			}
		case 3:
			d := fmt.Sprintf("copy%d", r.IntN(keys))
			o.writes[d] = "(none)"
			if err := tx.Delete("default", d); err != nil {
				return o, nil, err
			}
		}
	}
	if ticketed {
		v, ok, err := s.ticket(tx)
		if err != nil {
			return o, nil, err
		}
		if ok {
			o.ticket = v
		}
	}
	return o, incremented, tx.Commit(ctx)
}

func (s *Store) ticket(tx *Tx) (int, bool, error) {
	v, _, err := tx.Get("tickets", "next")
	if err != nil {
		return 0, false, err
	}
	n, _ := strconv.Atoi(string(v))
	return n, true, tx.Set("tickets", "next", []byte(strconv.Itoa(n+1)))
}
