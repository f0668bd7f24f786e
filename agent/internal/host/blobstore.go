package host

import (
	"errors"
	"fmt"
	"math"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// outgoingValue collects what becomes an object. It is written when it is finished: what a guest drops unfinished is not whole.
type outgoingValue struct {
	g         *Guest
	data      []byte
	streamed  bool // the stream was given out
	streaming bool // and is still held
	to        []place
}

// place is where a value goes.
type place struct {
	container
	object string
}

func (v *outgoingValue) room() (int, error)     { return outputRoom, nil }
func (v *outgoingValue) flushed() (bool, error) { return true, nil }

func (v *outgoingValue) write(p []byte) error {
	if err := v.g.hold(len(p)); err != nil {
		return err
	}
	v.data = append(v.data, p...)
	return nil
}

func (v *outgoingValue) drop() {
	for _, p := range v.to {
		v.g.log.emit(levels["warn"], "wasi:blobstore", fmt.Sprintf("object %.200q of %q is not written: its value was not finished", p.object, p.name))
	}
}

// finish writes the value to its places.
func (v *outgoingValue) finish() error {
	for _, p := range v.to {
		if err := p.write(v.g, p.object, v.data); err != nil {
			return err
		}
	}
	return nil
}

// incomingValue is what was read of an object, before anything else could change it.
type incomingValue struct{ data []byte }

// objectNames is a container's listing, read a page at a time.
type objectNames struct {
	container
	after string
	page  []string
	end   bool
}

// take up to n names; all is true when there are no more.
func (s *objectNames) take(g *Guest, n uint64) (names []string, all bool, err error) {
	for uint64(len(names)) < n || len(s.page) == 0 && !s.end {
		if len(s.page) == 0 {
			if s.end {
				break
			}
			if s.page, err = s.names(g, s.after, blobPage); err != nil {
				return nil, false, err
			}
			if s.end = len(s.page) < blobPage; len(s.page) == 0 {
				break
			}
			s.after = s.page[len(s.page)-1]
			continue // a whole last page is only known by the next one
		}
		k := int(min(n-uint64(len(names)), uint64(len(s.page))))
		names = append(names, s.page[:k]...)
		s.page = s.page[k:]
	}
	return names, s.end && len(s.page) == 0, nil
}

// blobResult is a function's result, or a trap.
func blobResult(ok engine.Val, err error) (engine.Val, error) { return result(ok, err, errText) }

func blobstoreInterfaces() []*iface {
	const version = "@0.2.0-draft"
	return []*iface{
		{name: "wasi:blobstore/types" + version, funcs: blobValueFuncs(), resources: resources{
			"outgoing-value": typOutgoingValue, "incoming-value": typIncomingValue, "incoming-value-async-body": typInputStream,
			"input-stream": typInputStream, "output-stream": typOutputStream,
		}},
		{name: "wasi:blobstore/container" + version, grant: grantBlobs, funcs: containerFuncs(), resources: resources{
			"container": typContainer, "stream-object-names": typObjectNames, "outgoing-value": typOutgoingValue, "incoming-value": typIncomingValue,
			"input-stream": typInputStream, "output-stream": typOutputStream,
		}},
		{name: "wasi:blobstore/blobstore" + version, grant: grantBlobs, funcs: blobstoreFuncs(), resources: resources{"container": typContainer}},
	}
}

func blobValueFuncs() map[string]fn {
	return map[string]fn{
		"[static]outgoing-value.new-outgoing-value": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
			return own(g, typOutgoingValue, &outgoingValue{g: g})
		}),
		"[method]outgoing-value.outgoing-value-write-body": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			v, err := get[outgoingValue](g, a[0])
			if err != nil {
				return none, err
			}
			if v.streamed {
				return errUnit, nil
			}
			v.streamed, v.streaming = true, true
			return ownOK(g, typOutputStream, &outputStream{to: v, ended: func() { v.streaming = false }})
		}, kHandle),
		"[static]outgoing-value.finish": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			v, err := take[outgoingValue](g, a[0])
			if err != nil {
				return none, err
			}
			if v.streaming {
				return none, errors.New("the value's stream must be dropped first")
			}
			return blobResult(okUnit, v.finish())
		}, kHandle),
		"[static]incoming-value.incoming-value-consume-sync": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			v, err := take[incomingValue](g, a[0])
			if err != nil {
				return none, err
			}
			return engine.OK(engine.Bytes(v.data)), nil
		}, kHandle),
		"[static]incoming-value.incoming-value-consume-async": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			v, err := take[incomingValue](g, a[0])
			if err != nil {
				return none, err
			}
			return ownOK(g, typInputStream, &inputStream{src: &source{unread: v.data, err: errClosed}})
		}, kHandle),
		"[method]incoming-value.size": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			v, err := get[incomingValue](g, a[0])
			if err != nil {
				return none, err
			}
			return engine.U64(uint64(len(v.data))), nil
		}, kHandle),
	}
}

func containerFuncs() map[string]fn {
	funcs := map[string]fn{}
	// Each but name needs a container that is still there.
	method := func(name string, do func(g *Guest, c *container, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		funcs["[method]container."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			c, err := get[container](g, a[0])
			if err != nil {
				return none, err
			}
			if err := c.there(g); err != nil {
				return blobResult(none, err)
			}
			v, err := do(g, c, a[1:])
			return blobResult(v, err)
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	method("name", func(_ *Guest, c *container, _ []engine.Val) (engine.Val, error) {
		return engine.OK(engine.String(c.name)), nil
	})
	method("info", func(g *Guest, c *container, _ []engine.Val) (engine.Val, error) {
		created, _, err := c.created(g)
		return engine.OK(engine.Record(
			engine.Field{Name: "name", Val: engine.String(c.name)},
			engine.Field{Name: "created-at", Val: engine.U64(created)},
		)), err
	})
	method("get-data", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		data, err := c.read(g, a[0].Text(), a[1].Uint(), a[2].Uint())
		if err != nil {
			return none, err
		}
		return owned(g, typIncomingValue, &incomingValue{data})
	}, kString, kU64, kU64)
	method("write-data", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		v, err := get[outgoingValue](g, a[1])
		if err != nil {
			return none, misuse(err)
		}
		if _, _, err := c.find(g, a[0].Text()); err != nil {
			return none, err
		}
		v.to = append(v.to, place{*c, a[0].Text()})
		if err := g.hold(len(a[0].Text())); err != nil {
			return none, misuse(err)
		}
		return okUnit, nil
	}, kString, kHandle)
	method("list-objects", func(g *Guest, c *container, _ []engine.Val) (engine.Val, error) {
		return owned(g, typObjectNames, &objectNames{container: *c})
	})
	method("delete-object", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		return okUnit, c.delete(g, a[0].Text())
	}, kString)
	method("delete-objects", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		for _, name := range a[0].Elems() {
			if err := c.delete(g, name.Text()); err != nil {
				return none, err
			}
		}
		return okUnit, nil
	}, kList)
	method("has-object", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		_, ok, err := c.find(g, a[0].Text())
		return engine.OK(engine.Bool(ok)), err
	}, kString)
	method("object-info", func(g *Guest, c *container, a []engine.Val) (engine.Val, error) {
		o, err := c.must(g, a[0].Text())
		return engine.OK(engine.Record(
			engine.Field{Name: "name", Val: a[0]},
			engine.Field{Name: "container", Val: engine.String(c.name)},
			engine.Field{Name: "created-at", Val: engine.U64(o.created)},
			engine.Field{Name: "size", Val: engine.U64(o.size)},
		)), err
	}, kString)
	method("clear", func(g *Guest, c *container, _ []engine.Val) (engine.Val, error) { return okUnit, c.clear(g) })

	names := func(name string, do func(names []string) engine.Val) {
		funcs["[method]stream-object-names."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			s, err := get[objectNames](g, a[0])
			if err != nil {
				return none, err
			}
			list, all, err := s.take(g, a[1].Uint())
			return blobResult(engine.OK(engine.Tuple(do(list), engine.Bool(all))), err)
		}, kHandle, kU64)
	}
	names("read-stream-object-names", func(names []string) engine.Val {
		vals := make([]engine.Val, len(names))
		for i, n := range names {
			vals[i] = engine.String(n)
		}
		return engine.List(vals...)
	})
	names("skip-stream-object-names", func(names []string) engine.Val { return engine.U64(uint64(len(names))) })
	return funcs
}

// owned is ownOK for a function whose other errors are the guest's.
func owned[T any](g *Guest, typ engine.ResourceType, obj *T) (engine.Val, error) {
	v, err := ownOK(g, typ, obj)
	if err != nil {
		return none, misuse(err)
	}
	return v, nil
}

func blobstoreFuncs() map[string]fn {
	funcs := map[string]fn{}
	byName := func(name string, do func(g *Guest, c container) (engine.Val, error)) {
		funcs[name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			c := container{a[0].Text()}
			if err := g.granted(c.name); err != nil {
				return blobResult(none, err)
			}
			v, err := do(g, c)
			return blobResult(v, err)
		}, kString)
	}
	byName("create-container", func(g *Guest, c container) (engine.Val, error) {
		if err := c.create(g); err != nil {
			return none, err
		}
		return owned(g, typContainer, &c)
	})
	byName("get-container", func(g *Guest, c container) (engine.Val, error) {
		if err := c.there(g); err != nil {
			return none, err
		}
		return owned(g, typContainer, &c)
	})
	byName("delete-container", func(g *Guest, c container) (engine.Val, error) {
		if err := c.there(g); err != nil {
			return none, err
		}
		if err := c.clear(g); err != nil {
			return none, err
		}
		return okUnit, g.env.KV.Delete(blobPrefix+c.name, "c")
	})
	byName("container-exists", func(g *Guest, c container) (engine.Val, error) {
		_, ok, err := c.created(g)
		return engine.OK(engine.Bool(ok)), err
	})

	between := func(name string, move bool) {
		funcs[name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			from, err := placeOf(a[0])
			if err != nil {
				return none, err
			}
			to, err := placeOf(a[1])
			if err != nil {
				return none, err
			}
			return blobResult(okUnit, g.copyObject(from, to, move))
		}, kRecord, kRecord)
	}
	between("copy-object", false)
	between("move-object", true)
	return funcs
}

// placeOf an object-id.
func placeOf(v engine.Val) (p place, err error) {
	name, object := v.Field("container"), v.Field("object")
	if name.Kind() != kString || object.Kind() != kString {
		return p, errors.New("expected an object-id")
	}
	return place{container{name.Text()}, object.Text()}, nil
}

func (g *Guest) copyObject(from, to place, move bool) error {
	if err := g.granted(from.name); err != nil {
		return err
	}
	if err := g.granted(to.name); err != nil {
		return err
	}
	data, err := from.read(g, from.object, 0, math.MaxUint64)
	if err != nil || from == to {
		return err
	}
	if err := to.write(g, to.object, data); err != nil || !move {
		return err
	}
	return from.delete(g, from.object)
}
