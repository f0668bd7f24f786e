package host

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	keysPage  = 1000    // keys that one list-keys gives
	maxAnswer = 4 << 20 // bytes of values that one get-many gives: on their way into the guest each is worth 32
)

var (
	errNoKV         = errors.New("there is no key-value data here")
	errDenied       = errors.New("access denied")
	errNoSuchCursor = errors.New("the cursor is not from this event: start again without one")
)

// bucket is one store that the component was granted.
type bucket struct{ name string }

// openBucket gives the bucket of a granted store; "" is "default", as in other hosts.
func (g *Guest) openBucket(name string) (*bucket, error) {
	if name == "" {
		name = "default"
	}
	if g.env.KV == nil {
		return nil, errNoKV
	}
	if !slices.Contains(g.env.Grants.Stores, name) {
		g.log.emit(levels["warn"], "wasi:keyvalue", fmt.Sprintf("store %.200q denied: add it to key_value_stores = [%s]", name, quoted(g.env.Grants.Stores)))
		return nil, errDenied
	}
	return &bucket{name}, nil
}

func (b *bucket) set(g *Guest, key string, value []byte) error {
	if err := g.hold(len(key) + len(value)); err != nil {
		return misuse(err)
	}
	return g.note("wasi:keyvalue", g.env.KV.Set(b.name, key, value))
}

// increment the decimal number under key, which is 0 when missing. Text, as Redis has it: guests can read and set it too.
func (b *bucket) increment(g *Guest, key string, add func(old string) (string, engine.Val, error)) (engine.Val, error) {
	value, ok, err := g.env.KV.Get(b.name, key)
	if err != nil {
		return none, err
	}
	old := "0"
	if ok {
		old = string(value)
	}
	text, v, err := add(old)
	if err != nil {
		return none, fmt.Errorf("increment %.200q: %w", key, err)
	}
	return engine.OK(v), b.set(g, key, []byte(text))
}

func addUnsigned(delta uint64) func(string) (string, engine.Val, error) {
	return func(old string) (string, engine.Val, error) {
		n, err := strconv.ParseUint(old, 10, 64)
		if err != nil {
			return "", none, errors.New("the value is not a decimal number of 64 bits without a sign")
		}
		if n+delta < n {
			return "", none, errors.New("the sum does not fit 64 bits")
		}
		return strconv.FormatUint(n+delta, 10), engine.U64(n + delta), nil
	}
}

func addSigned(delta int64) func(string) (string, engine.Val, error) {
	return func(old string) (string, engine.Val, error) {
		n, err := strconv.ParseInt(old, 10, 64)
		if err != nil {
			return "", none, errors.New("the value is not a decimal number of 64 bits")
		}
		sum := n + delta
		if (sum > n) != (delta > 0) && delta != 0 {
			return "", none, errors.New("the sum does not fit 64 bits")
		}
		return strconv.FormatInt(sum, 10), engine.S64(sum), nil
	}
}

// kvError is the store interfaces' error variant.
func kvError(err error) engine.Val {
	if errors.Is(err, errDenied) {
		return engine.Variant("access-denied")
	}
	return engine.Variant("other", errText(err))
}

// kvResult is a store function's result, or a trap.
func kvResult(ok engine.Val, err error) (engine.Val, error) { return result(ok, err, kvError) }

// onBucket makes a function whose first argument is a bucket.
func onBucket(do func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error), params ...engine.Kind) fn {
	return f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := get[bucket](g, a[0])
		if err != nil {
			return none, err
		}
		v, err := do(g, b, a[1:])
		return kvResult(v, err)
	}, append([]engine.Kind{kHandle}, params...)...)
}

// bucketFuncs are what wasi:keyvalue's two drafts and Spin's key-value agree on.
func bucketFuncs(resource string) map[string]fn {
	return map[string]fn{
		"[method]" + resource + ".get": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			value, ok, err := g.env.KV.Get(b.name, a[0].Text())
			if !ok || err != nil {
				return engine.OK(absent), err
			}
			return engine.OK(engine.Some(engine.Bytes(value))), nil
		}, kString),
		"[method]" + resource + ".set": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			return okUnit, b.set(g, a[0].Text(), a[1].Raw())
		}, kString, kBytes),
		"[method]" + resource + ".delete": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			return okUnit, g.env.KV.Delete(b.name, a[0].Text())
		}, kString),
		"[method]" + resource + ".exists": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			_, ok, err := g.env.KV.Get(b.name, a[0].Text())
			return engine.OK(engine.Bool(ok)), err
		}, kString),
	}
}

// opener makes the function that opens a bucket.
func opener(typ engine.ResourceType) fn {
	return f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := g.openBucket(a[0].Text())
		if err != nil {
			return kvResult(none, err)
		}
		return ownOK(g, typ, b)
	}, kString)
}

// keyResponse is one page of keys and the cursor for the next.
func keyResponse(keys []string, cursor func(last string) engine.Val) engine.Val {
	vals := make([]engine.Val, len(keys))
	for i, k := range keys {
		vals[i] = engine.String(k)
	}
	next := absent
	if len(keys) == keysPage {
		next = engine.Some(cursor(keys[len(keys)-1]))
	}
	return engine.OK(engine.Record(
		engine.Field{Name: "keys", Val: engine.List(vals...)},
		engine.Field{Name: "cursor", Val: next},
	))
}

func keyvalueInterfaces() []*iface {
	draft, draft2 := "@0.2.0-draft", "@0.2.0-draft2"
	bucketOf := func(typ engine.ResourceType) resources {
		return resources{"bucket": typ}
	}

	// The first draft's cursor is a number: it counts the pages that this event has been given.
	store := bucketFuncs("bucket")
	store["open"] = opener(typBucketDraft)
	store["[method]bucket.list-keys"] = onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
		after := ""
		if a[0].IsSet() {
			n := a[0].Payload().Uint()
			if n >= uint64(len(g.cursors)) {
				return none, errNoSuchCursor
			}
			after = g.cursors[n]
		}
		keys, err := g.env.KV.Keys(b.name, after, keysPage)
		return keyResponse(keys, func(last string) engine.Val {
			g.cursors = append(g.cursors, last)
			return engine.U64(uint64(len(g.cursors) - 1))
		}), err
	}, kOption)

	store2 := bucketFuncs("bucket")
	store2["open"] = opener(typBucketDraft2)
	store2["[method]bucket.list-keys"] = onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
		keys, err := g.env.KV.Keys(b.name, a[0].Payload().Text(), keysPage)
		return keyResponse(keys, engine.String), err
	}, kOption)

	return []*iface{
		{name: "wasi:keyvalue/store" + draft, funcs: store, resources: bucketOf(typBucketDraft), grant: grantStores},
		{name: "wasi:keyvalue/store" + draft2, funcs: store2, resources: bucketOf(typBucketDraft2), grant: grantStores},
		{name: "wasi:keyvalue/atomics" + draft, grant: grantStores, resources: bucketOf(typBucketDraft), funcs: map[string]fn{
			"increment": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
				return b.increment(g, a[0].Text(), addUnsigned(a[1].Uint()))
			}, kString, kU64),
		}},
		{name: "wasi:keyvalue/atomics" + draft2, grant: grantStores, resources: resources{"cas": typCas, "bucket": typBucketDraft2}, funcs: casFuncs()},
		{name: "wasi:keyvalue/batch" + draft, grant: grantStores, resources: bucketOf(typBucketDraft), funcs: batchFuncs()},
		{name: "wasi:keyvalue/batch" + draft2, grant: grantStores, resources: bucketOf(typBucketDraft2), funcs: batchFuncs()},
	}
}

func batchFuncs() map[string]fn {
	return map[string]fn{
		"get-many": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			vals := make([]engine.Val, 0, len(a[0].Elems()))
			size := 0
			for _, key := range a[0].Elems() {
				value, ok, err := g.env.KV.Get(b.name, key.Text())
				if err != nil {
					return none, err
				}
				if size += len(value); size > maxAnswer {
					return none, fmt.Errorf("get many: the values have more than %d MiB together, ask for fewer keys at once", maxAnswer>>20)
				}
				if !ok {
					vals = append(vals, absent)
					continue
				}
				vals = append(vals, engine.Some(engine.Tuple(key, engine.Bytes(value))))
			}
			return engine.OK(engine.List(vals...)), nil
		}, kList),
		"set-many": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			for _, kv := range a[0].Elems() {
				key, value, err := pair(kv)
				if err != nil {
					return none, misuse(err)
				}
				if err := b.set(g, key.Text(), value.Raw()); err != nil {
					return none, err
				}
			}
			return okUnit, nil
		}, kList),
		"delete-many": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			for _, key := range a[0].Elems() {
				if err := g.env.KV.Delete(b.name, key.Text()); err != nil {
					return none, err
				}
			}
			return okUnit, nil
		}, kList),
	}
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}
