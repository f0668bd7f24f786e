package host

import (
	"bytes"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// cas remembers what a key held. Other events can't come between: an event that read what another has changed runs again. So
// swap only fails when the guest itself has changed the key since.
type cas struct {
	bucket *bucket
	key    string
	value  []byte
	ok     bool
}

func newCas(g *Guest, b *bucket, key string) (*cas, error) {
	value, ok, err := g.env.KV.Get(b.name, key)
	return &cas{b, key, value, ok}, err
}

// casFuncs is wasi:keyvalue/atomics as of its second draft.
func casFuncs() map[string]fn {
	return map[string]fn{
		"increment": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			return b.increment(g, a[0].Text(), addSigned(a[1].Int()))
		}, kString, kS64),
		"[static]cas.new": onBucket(func(g *Guest, b *bucket, a []engine.Val) (engine.Val, error) {
			c, err := newCas(g, b, a[0].Text())
			if err != nil {
				return none, err
			}
			v, err := ownOK(g, typCas, c)
			if err != nil {
				return none, misuse(err)
			}
			return v, nil
		}, kString),
		"[method]cas.current": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			c, err := get[cas](g, a[0])
			if err != nil {
				return none, err
			}
			if !c.ok {
				return engine.OK(absent), nil
			}
			return engine.OK(engine.Some(engine.Bytes(c.value))), nil
		}, kHandle),
		"swap": f(swap, kHandle, kBytes),
	}
}

func swap(g *Guest, a []engine.Val) (engine.Val, error) {
	c, err := take[cas](g, a[0])
	if err != nil {
		return none, err
	}
	now, err := newCas(g, c.bucket, c.key)
	if err == nil && now.ok == c.ok && bytes.Equal(now.value, c.value) {
		err = c.bucket.set(g, c.key, a[1].Raw())
		if err == nil {
			return okUnit, nil
		}
	} else if err == nil {
		v, err := own(g, typCas, now)
		return engine.Err(engine.Variant("cas-failed", v)), err
	}
	v, err := kvResult(none, err)
	if err != nil {
		return none, err
	}
	return engine.Err(engine.Variant("store-error", v.Payload())), nil
}
