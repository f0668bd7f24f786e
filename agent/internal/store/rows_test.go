package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// Random changes, some of them folded, against a map: each read and each scan gives what the map has.
func TestTheTableIsTheDatabaseUnderEveryLayer(t *testing.T) {
	s := open(t, t.TempDir()) // rows without checksums
	r := seed(t)
	model, over := map[string]string{}, (*overlay)(nil)
	for round := range 400 {
		changes := map[string][]byte{}
		for range 1 + r.IntN(6) {
			k := fmt.Sprintf("r%c/%d", 'a'+r.IntN(3), r.IntN(30))
			if r.IntN(3) == 0 {
				changes[k] = nil
				delete(model, k)
			} else {
				model[k] = fmt.Sprint("v", round)
				changes[k] = []byte(model[k])
			}
		}
		over = over.push(sortedRows(changes))
		for o := over; o.under != nil; o = o.under {
			if len(o.under.rows) <= 2*len(o.rows) {
				t.Fatalf("a layer of %d rows over one of %d", len(o.rows), len(o.under.rows))
			}
		}
		if r.IntN(20) == 0 {
			must(t, s.update(func(tx *bolt.Tx) error { return putRows(tx, over.all(), s.mark) }))
			over = nil
		}
		prefix := []string{"", "r", "ra/", "rb/", "x"}[r.IntN(5)]
		after := []string{"", "ra/15", "rb/", "rb/3", "rc/9", "z"}[r.IntN(6)]
		limit := 1 + r.IntN(40)
		var want, got []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if strings.HasPrefix(k, prefix) && k > after && len(want) < limit {
				want = append(want, k+"="+model[k])
			}
		}
		must(t, s.view(func(tx *bolt.Tx) error {
			rows, err := tableOf(tx, over)
			must(t, err)
			for i := range 30 {
				k := fmt.Sprintf("ra/%d", i)
				if v := rows.get([]byte(k)); string(v) != model[k] {
					t.Fatalf("round %d: %s is %q, want %q", round, k, v, model[k])
				}
			}
			return rows.scan([]byte(prefix), []byte(after), func(k, v []byte) (bool, error) {
				got = append(got, string(k)+"="+string(v))
				return len(got) < limit, nil
			})
		}))
		if !slices.Equal(got, want) {
			t.Fatalf("round %d, prefix %q after %q: got %q, want %q", round, prefix, after, got, want)
		}
	}
}

func FuzzChanges(f *testing.F) {
	f.Add(encodeChanges(7, []row{{"a", []byte("12345")}, {"b", nil}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, rows, err := decodeChanges(b)
		if err == nil && !bytes.Equal(encodeChanges(id, rows), b) {
			t.Errorf("%x decodes to %d, %v, which encodes to something else", b, id, rows)
		}
	})
}
