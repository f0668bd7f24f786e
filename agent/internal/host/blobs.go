package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Objects are rows in the event's keyvalue data, so they come and go with its commit, and count as that does. Each container has
// a store of its own, "blob:<name>", a name that no manifest can grant as a store:
//
//	c                      the container: when it was made
//	o<object>              the object: when it was made, its size, and its generation
//	d<object><gen><index>  its bytes, blobChunk in each row; both numbers have eight hex digits
//
// Objects stand last, so they are listed in order without their bytes. A new body is written beside the old one, under the next
// generation: one that doesn't fit leaves the old object whole.
const (
	blobPrefix = "blob:"
	blobChunk  = 64 << 10
	blobPage   = 256 // names that are listed at once
	blobFormat = 1
)

// KeyvalueStores are the stores of the event's keyvalue data that a component with these grants can write, those behind its blob
// containers included: what a quota has to count.
func (g Grants) KeyvalueStores() []string {
	all := slices.Clone(g.Stores)
	for _, name := range g.BlobStores {
		all = append(all, blobPrefix+name)
	}
	return all
}

// container is one that the component was granted; it may be gone.
type container struct{ name string }

// object is an object's record.
type object struct {
	created    uint64 // seconds since 1970
	size       uint64
	generation uint32
}

func (o object) bytes() []byte {
	b := binary.BigEndian.AppendUint64([]byte{blobFormat}, o.created)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, o.size), o.generation)
}

func parseObject(b []byte) (object, error) {
	if len(b) != 21 || b[0] != blobFormat {
		return object{}, errors.New("its record is damaged, or another version's")
	}
	return object{binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint32(b[17:])}, nil
}

func (o object) chunks() uint64 { return (o.size + blobChunk - 1) / blobChunk }

func (o object) chunk(name string, i uint64) string {
	return fmt.Sprintf("d%s%08x%08x", name, o.generation, i)
}

// granted checks a container's name against the manifest.
func (g *Guest) granted(name string) error {
	if g.env.KV == nil {
		return errors.New("there is no data here")
	}
	if !slices.Contains(g.env.Grants.BlobStores, name) {
		err := fmt.Errorf("container %.200q denied: add it to blob_stores = [%s]", name, quoted(g.env.Grants.BlobStores))
		g.log.emit(levels["warn"], "wasi:blobstore", err.Error())
		return err
	}
	return nil
}

// created says when a container was made; ok is false if there is none.
func (c container) created(g *Guest) (seconds uint64, ok bool, err error) {
	b, ok, err := g.env.KV.Get(blobPrefix+c.name, "c")
	if err != nil || !ok {
		return 0, false, err
	}
	if len(b) != 9 || b[0] != blobFormat {
		return 0, false, fmt.Errorf("container %q: its record is damaged, or another version's", c.name)
	}
	return binary.BigEndian.Uint64(b[1:]), true, nil
}

// there fails where the container is not.
func (c container) there(g *Guest) error {
	_, ok, err := c.created(g)
	if err == nil && !ok {
		err = fmt.Errorf("there is no container %q: create-container makes it", c.name)
	}
	return err
}

func (c container) create(g *Guest) error {
	_, ok, err := c.created(g)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("there is a container %q already: get-container opens it", c.name)
	}
	return c.set(g, "c", binary.BigEndian.AppendUint64([]byte{blobFormat}, g.seconds()))
}

func (c container) set(g *Guest, key string, value []byte) error {
	return g.note("wasi:blobstore", g.env.KV.Set(blobPrefix+c.name, key, value))
}

// seconds since 1970, by the guest's own wall clock.
func (g *Guest) seconds() uint64 {
	now := time.Now
	if g.env.Now != nil {
		now = g.env.Now
	}
	return uint64(max(0, now().Unix()))
}

// find an object.
func (c container) find(g *Guest, name string) (o object, ok bool, err error) {
	if name == "" {
		return o, false, errors.New("the object has no name")
	}
	b, ok, err := g.env.KV.Get(blobPrefix+c.name, "o"+name)
	if err != nil || !ok {
		return o, false, err
	}
	if o, err = parseObject(b); err != nil {
		return o, false, fmt.Errorf("object %.200q: %w", name, err)
	}
	return o, true, nil
}

// must find an object, in a container that is there.
func (c container) must(g *Guest, name string) (object, error) {
	if err := c.there(g); err != nil {
		return object{}, err
	}
	o, ok, err := c.find(g, name)
	if err == nil && !ok {
		err = fmt.Errorf("there is no object %.200q in %q", name, c.name)
	}
	return o, err
}

// read the bytes from start to end, both included; an end past the object's is its end.
func (c container) read(g *Guest, name string, start, end uint64) ([]byte, error) {
	o, err := c.must(g, name)
	if err != nil {
		return nil, err
	}
	switch {
	case start > end:
		return nil, fmt.Errorf("range from %d to %d of object %.200q", start, end, name)
	case start >= o.size && start > 0:
		return nil, fmt.Errorf("range from %d of object %.200q, which has %d bytes", start, name, o.size)
	case o.size == 0:
		return nil, nil
	}
	end = min(end, o.size-1)
	if end-start >= math.MaxInt32 {
		return nil, fmt.Errorf("range of %d bytes", end-start)
	}
	if err := g.hold(int(end - start + 1)); err != nil {
		return nil, misuse(err)
	}
	data := make([]byte, 0, end-start+1)
	for i := start / blobChunk; i <= end/blobChunk; i++ {
		b, ok, err := g.env.KV.Get(blobPrefix+c.name, o.chunk(name, i))
		if err != nil {
			return nil, err
		}
		first, last := uint64(0), min(blobChunk, o.size-i*blobChunk)
		if !ok || uint64(len(b)) != last {
			return nil, fmt.Errorf("object %.200q: bytes from %d are missing", name, i*blobChunk)
		}
		if i == start/blobChunk {
			first = start % blobChunk
		}
		if i == end/blobChunk {
			last = end%blobChunk + 1
		}
		data = append(data, b[first:last]...)
	}
	return data, nil
}

// write an object, in the place of one that is there: whole, or not at all.
func (c container) write(g *Guest, name string, data []byte) error {
	if err := c.there(g); err != nil {
		return err
	}
	old, replaces, err := c.find(g, name)
	if err != nil {
		return err
	}
	o := object{created: g.seconds(), size: uint64(len(data)), generation: old.generation + 1}
	set := func(key string, value []byte) error {
		if err == nil {
			err = c.set(g, key, value)
		}
		return err
	}
	written := uint64(0)
	for part := range slices.Chunk(data, blobChunk) {
		if set(o.chunk(name, written), part) != nil {
			break
		}
		written++
	}
	if set("o"+name, o.bytes()) != nil {
		for i := range written {
			if undo := g.env.KV.Delete(blobPrefix+c.name, o.chunk(name, i)); undo != nil {
				return misuse(fmt.Errorf("write object %.200q: %w", name, errors.Join(err, undo)))
			}
		}
		return fmt.Errorf("write object %.200q: %w", name, err)
	}
	if !replaces {
		return nil
	}
	// What fails from here on would leave bytes that nothing names, so the event is over.
	if err := c.drop(g, name, old); err != nil {
		return misuse(fmt.Errorf("replace object %.200q: %w", name, err))
	}
	return nil
}

// drop an object's bytes.
func (c container) drop(g *Guest, name string, o object) error {
	for i := range o.chunks() {
		if err := g.env.KV.Delete(blobPrefix+c.name, o.chunk(name, i)); err != nil {
			return err
		}
	}
	return nil
}

// delete an object; one that isn't there is no error.
func (c container) delete(g *Guest, name string) error {
	o, ok, err := c.find(g, name)
	if err != nil || !ok {
		return err
	}
	if err := g.env.KV.Delete(blobPrefix+c.name, "o"+name); err != nil {
		return err
	}
	if err := c.drop(g, name, o); err != nil {
		return misuse(fmt.Errorf("delete object %.200q: %w", name, err))
	}
	return nil
}

// names of objects in order, after one; fewer than limit are the last ones.
func (c container) names(g *Guest, after string, limit int) ([]string, error) {
	keys, err := g.env.KV.Keys(blobPrefix+c.name, "o"+after, limit)
	for i, k := range keys {
		keys[i] = strings.TrimPrefix(k, "o")
		if err := g.hold(len(k)); err != nil {
			return nil, misuse(err)
		}
	}
	return keys, err
}

func (c container) clear(g *Guest) error {
	for {
		names, err := c.names(g, "", blobPage)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := c.delete(g, name); err != nil {
				return err
			}
		}
	}
}
