package store

import (
	"fmt"
)

// entryCost is what a key costs besides its bytes and its value's: a million empty values are not free.
const entryCost = 64

// Quota bounds what a transaction may leave in some of an application's stores together. A write that adds to them is refused over
// it; one that takes away never is.
type Quota struct {
	Stores []string
	Bytes  int64 // of keys and values, and 64 more for each key
}

// QuotaError refuses a write.
type QuotaError struct{ Limit, Used int64 } // bytes; Used without the write

func (e *QuotaError) Error() string {
	return fmt.Sprintf("quota of %d bytes, of which %d are used", e.Limit, e.Used)
}

// Within gives t a quota, before its first write.
func (t *Tx) Within(q Quota) *Tx {
	t.quota = &quota{s: t.s, bytes: q.Bytes}
	for _, store := range q.Stores {
		if prefix, err := t.prefix(store); err == nil {
			t.quota.prefixes = append(t.quota.prefixes, string(prefix))
		}
	}
	return t
}

// storePrefix is the part of a keyvalue row's key that names application and store; nil if it is none.
func storePrefix(k []byte) []byte {
	if len(k) < 2 || k[0] != kindValue {
		return nil
	}
	n := 2 + int(k[1])
	if len(k) <= n {
		return nil
	}
	if n += 1 + int(k[n]); len(k) <= n {
		return nil
	}
	return k[:n]
}

// cost of a row in its store.
func cost(key, prefix, value []byte) int64 {
	return int64(len(key)-len(prefix)+len(value)) + entryCost
}

// usage is what each store of each application holds, by storePrefix. It is counted when the file is opened, which reads each
// row, and with each commit.
type usage map[string]int64

// row counts one that is there (1) or gone (-1), as it lies on the disk: with its checksum.
func (u usage) row(key, row []byte, sign int64) {
	if prefix := storePrefix(key); prefix != nil && row != nil {
		u[string(prefix)] += sign * cost(key, prefix, row[min(4, len(row)):])
	}
}

// grown is what writes change in the stores, against what is in t.
func grown(t table, writes map[string][]byte) usage {
	u := usage{}
	for k, value := range writes {
		key := []byte(k)
		prefix := storePrefix(key)
		if prefix == nil {
			continue
		}
		u.row(key, t.get(key), -1)
		if value != nil {
			u[string(prefix)] += cost(key, prefix, value)
		}
	}
	return u
}

// add o to u, and forget what has become nothing.
func (u usage) add(o usage) {
	for k, n := range o {
		if u[k] += n; u[k] == 0 {
			delete(u, k)
		}
	}
}

// quota of one transaction.
type quota struct {
	s        *Store
	bytes    int64
	prefixes []string
	exact    bool
	change   int64 // by the transaction's writes; if exact
}

// sum of what u says of the quota's stores.
func (q *quota) sum(u usage) (n int64) {
	for _, p := range q.prefixes {
		n += u[p]
	}
	return n
}

// used as of the last commit.
func (q *quota) used() int64 {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	return q.sum(q.s.usage)
}

func (q *quota) covers(key []byte) bool {
	prefix := storePrefix(key)
	for _, p := range q.prefixes {
		if string(prefix) == p {
			return true
		}
	}
	return false
}

// admit a write of t's, whose bytes are in t.size already, before it is made. While there is room enough for all that t writes, nobody asks what was there before.
func (t *Tx) admit(key, value []byte) error {
	q := t.quota
	if q == nil || !q.covers(key) {
		return nil
	}
	used := q.used()
	if !q.exact && used+int64(t.size+(len(t.writes)+1)*entryCost) <= q.bytes {
		return nil
	}
	if !q.exact {
		q.exact, q.change = true, 0
		for k, v := range t.writes {
			was, err := t.s.costOf([]byte(k))
			if err != nil {
				return err
			}
			q.change += costOfWrite([]byte(k), v) - was
		}
	}
	var was int64
	if v, mine := t.writes[string(key)]; mine {
		was = costOfWrite(key, v)
	} else {
		var err error
		if was, err = t.s.costOf(key); err != nil {
			return err
		}
	}
	more := costOfWrite(key, value) - was
	if more > 0 && used+q.change+more > q.bytes {
		return &QuotaError{Limit: q.bytes, Used: used + q.change}
	}
	q.change += more
	return nil
}

func costOfWrite(key, value []byte) int64 {
	if prefix := storePrefix(key); prefix != nil && value != nil {
		return cost(key, prefix, value)
	}
	return 0
}

// costOf the newest value of a row.
func (s *Store) costOf(key []byte) (int64, error) {
	value, ok, err := s.latest(key)
	if !ok || err != nil {
		return 0, err
	}
	return costOfWrite(key, value), nil
}

// accept a job's growth, or refuse it: others took the room since its transaction looked. Run again, it is told so.
func (g *grouping) accept(j *job) error {
	grow := grown(g.table, j.writes)
	if q := j.quota; q != nil {
		g.s.mu.Lock()
		used := q.sum(g.s.usage)
		g.s.mu.Unlock()
		if more := q.sum(grow); more > 0 && used+q.sum(g.usage)+more > q.bytes {
			return ErrConflict
		}
	}
	g.usage.add(grow)
	return nil
}
