package host

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	blobTypes     = "wasi:blobstore/types@0.2.0-draft "
	blobContainer = "wasi:blobstore/container@0.2.0-draft [method]container."
	blobStore     = "wasi:blobstore/blobstore@0.2.0-draft "
	objectNamesOf = "wasi:blobstore/container@0.2.0-draft [method]stream-object-names."
)

// limited is data that takes so many bytes.
type limitedBus struct {
	bus
	left int
}

var errFull = errors.New("the event would write too much, at most so many bytes")

func (b *limitedBus) Set(store, key string, value []byte) error {
	if b.left -= len(value); b.left < 0 {
		b.left += len(value)
		return errFull
	}
	return b.bus.Set(store, key, bytes.Clone(value))
}

func blobGuest(t *testing.T, kv KV) direct {
	return newDirect(t, t.Context(), &Env{KV: kv, Now: func() time.Time { return time.Unix(1000, 0) }, Grants: Grants{BlobStores: []string{"photos", "old"}}})
}

// value is a finished stream of a new value.
func (d direct) value(data []byte) engine.Val {
	d.t.Helper()
	v := d.call(blobTypes + "[static]outgoing-value.new-outgoing-value")
	stream := d.ok(blobTypes+"[method]outgoing-value.outgoing-value-write-body", v)
	for len(data) > 0 {
		n := min(len(data), 4096)
		d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, engine.Bytes(data[:n]))
		data = data[n:]
	}
	d.drop(stream)
	return v
}

func (d direct) put(c engine.Val, name string, data []byte) {
	d.t.Helper()
	v := d.value(data)
	d.ok(blobContainer+"write-data", c, str(name), v)
	d.ok(blobTypes+"[static]outgoing-value.finish", v)
}

func (d direct) object(c engine.Val, name string, start, end uint64) []byte {
	d.t.Helper()
	v := d.ok(blobContainer+"get-data", c, str(name), engine.U64(start), engine.U64(end))
	return d.ok(blobTypes+"[static]incoming-value.incoming-value-consume-sync", v).Raw()
}

func (d direct) refused(want, name string, args ...engine.Val) {
	d.t.Helper()
	v := d.call(name, args...)
	if v.IsSet() || !strings.Contains(v.Payload().Text(), want) {
		d.t.Errorf("%s: got %v, want an error with %q", name, v, want)
	}
}

func id(container, object string) engine.Val {
	return engine.Record(engine.Field{Name: "container", Val: str(container)}, engine.Field{Name: "object", Val: str(object)})
}

const all = 1<<64 - 1

func TestBlobContainersAreThoseOfTheManifest(t *testing.T) {
	d := blobGuest(t, &bus{})
	for _, name := range []string{"create-container", "get-container", "delete-container", "container-exists"} {
		d.refused(`container "secrets" denied: add it to blob_stores = ["photos", "old"]`, blobStore+name, str("secrets"))
	}
	d.refused("there is no container", blobStore+"get-container", str("photos"))
	d.refused("there is no container", blobStore+"delete-container", str("photos"))
	if d.ok(blobStore+"container-exists", str("photos")).IsSet() {
		t.Error("a container exists before it is made")
	}
	c := d.ok(blobStore+"create-container", str("photos"))
	d.refused("already", blobStore+"create-container", str("photos"))
	d.ok(blobStore+"get-container", str("photos"))
	if name := d.ok(blobContainer+"name", c).Text(); name != "photos" {
		t.Errorf("it is called %q", name)
	}
	if info := d.ok(blobContainer+"info", c); info.Field("name").Text() != "photos" || info.Field("created-at").Uint() != 1000 {
		t.Errorf("info %v", info)
	}
	d.put(c, "cat", []byte("purr"))
	for _, move := range []string{"copy-object", "move-object"} {
		d.refused("denied", blobStore+move, id("photos", "cat"), id("secrets", "cat"))
		d.refused("denied", blobStore+move, id("secrets", "cat"), id("photos", "cat"))
		d.refused(`there is no container "old"`, blobStore+move, id("photos", "cat"), id("old", "cat"))
		d.refused("there is no object", blobStore+move, id("photos", "dog"), id("photos", "cat"))
	}
	d.ok(blobStore+"delete-container", str("photos"))
	d.refused("there is no container", blobContainer+"name", c)
	d.refused("there is no container", blobContainer+"has-object", c, str("cat"))
	// What was in it stays away when it is made anew.
	c = d.ok(blobStore+"create-container", str("photos"))
	if d.ok(blobContainer+"has-object", c, str("cat")).IsSet() {
		t.Error("an object outlived its container")
	}
	without := newDirect(t, t.Context(), &Env{Grants: Grants{BlobStores: []string{"photos"}}})
	without.refused("there is no data here", blobStore+"container-exists", str("photos"))
}

func TestBlobsAreGivenAsTheyWereWritten(t *testing.T) {
	d := blobGuest(t, &bus{})
	c := d.ok(blobStore+"create-container", str("photos"))
	for _, size := range []int{0, 1, blobChunk - 1, blobChunk, blobChunk + 1, 3*blobChunk + 7} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i / 7)
		}
		name := fmt.Sprint("of ", size)
		d.put(c, name, data)
		if got := d.object(c, name, 0, all); !bytes.Equal(got, data) {
			t.Errorf("of %d bytes, %d come back", size, len(got))
		}
		if info := d.ok(blobContainer+"object-info", c, str(name)); info.Field("size").Uint() != uint64(size) || info.Field("created-at").Uint() != 1000 ||
			info.Field("container").Text() != "photos" || info.Field("name").Text() != name {
			t.Errorf("info %v", info)
		}
		for _, r := range [][2]int{{0, 0}, {1, 1}, {blobChunk - 1, blobChunk}, {5, 2*blobChunk + 5}, {size - 1, size - 1}, {blobChunk, 2*blobChunk - 1}} {
			if r[0] < 0 || r[0] >= size {
				continue
			}
			want := data[r[0]:min(r[1]+1, size)]
			if got := d.object(c, name, uint64(r[0]), uint64(r[1])); !bytes.Equal(got, want) {
				t.Errorf("bytes %v of %d: %d come back, want %d", r, size, len(got), len(want))
			}
		}
		if size > 0 {
			d.refused("which has", blobContainer+"get-data", c, str(name), engine.U64(uint64(size)), engine.U64(all))
		}
		d.refused("range from 2 to 1", blobContainer+"get-data", c, str(name), engine.U64(2), engine.U64(1))
	}
	d.refused("there is no object", blobContainer+"get-data", c, str("none"), engine.U64(0), engine.U64(1))
	d.refused("there is no object", blobContainer+"object-info", c, str("none"))
	d.refused("has no name", blobContainer+"has-object", c, str(""))
}

// What was read stays, whatever becomes of the object.
func TestBlobThatWasReadOutlivesItsObject(t *testing.T) {
	d := blobGuest(t, &bus{})
	c := d.ok(blobStore+"create-container", str("photos"))
	d.put(c, "cat", []byte("purr"))
	v := d.ok(blobContainer+"get-data", c, str("cat"), engine.U64(0), engine.U64(all))
	d.put(c, "cat", []byte("hiss!"))
	d.ok(blobContainer+"delete-object", c, str("cat"))
	d.ok(blobContainer+"delete-object", c, str("cat"))
	if size := d.call(blobTypes+"[method]incoming-value.size", v).Uint(); size != 4 {
		t.Errorf("size %d", size)
	}
	stream := d.ok(blobTypes+"[static]incoming-value.incoming-value-consume-async", v)
	d.traps("no host.incomingValue", blobTypes+"[method]incoming-value.size", v)
	if got := d.ok(streams+"[method]input-stream.read", stream, number(100)).Raw(); string(got) != "purr" {
		t.Errorf("read %q", got)
	}
	d.fails("closed", streams+"[method]input-stream.blocking-read", stream, number(1))
}

func TestBlobValueIsWrittenWhenItIsFinishedOrNotAtAll(t *testing.T) {
	var l logs
	d := blobGuest(t, &bus{})
	d.log.to = l.add
	c := d.ok(blobStore+"create-container", str("photos"))
	has := func(name string) bool { return d.ok(blobContainer+"has-object", c, str(name)).IsSet() }

	// As some toolchains do it: the place first, the bytes after.
	v := d.call(blobTypes + "[static]outgoing-value.new-outgoing-value")
	d.ok(blobContainer+"write-data", c, str("late"), v)
	stream := d.ok(blobTypes+"[method]outgoing-value.outgoing-value-write-body", v)
	if again := d.call(blobTypes+"[method]outgoing-value.outgoing-value-write-body", v); again.IsSet() {
		t.Error("the stream was given twice")
	}
	d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, bin("bytes"))
	if has("late") {
		t.Error("it is there before it is finished")
	}
	d.drop(stream)
	d.ok(blobTypes+"[static]outgoing-value.finish", v)
	if got := d.object(c, "late", 0, all); string(got) != "bytes" {
		t.Errorf("got %q", got)
	}

	v = d.value([]byte("half"))
	d.ok(blobContainer+"write-data", c, str("torn"), v)
	d.drop(v)
	if has("torn") || len(l) != 1 || !strings.Contains(l[0], `object "torn" of "photos" is not written`) {
		t.Errorf("an unfinished value is there, or nothing says that it isn't: %v", l)
	}

	v = d.call(blobTypes + "[static]outgoing-value.new-outgoing-value")
	d.ok(blobTypes+"[method]outgoing-value.outgoing-value-write-body", v)
	d.traps("must be dropped first", blobTypes+"[static]outgoing-value.finish", v)
}

func TestBlobThatDoesNotFitLeavesTheOldOneWhole(t *testing.T) {
	kv := &limitedBus{left: 4 * blobChunk}
	d := blobGuest(t, kv)
	c := d.ok(blobStore+"create-container", str("photos"))
	old := bytes.Repeat([]byte("old"), blobChunk/2)
	d.put(c, "cat", old)
	rows := len(kv.data)
	v := d.value(make([]byte, 3*blobChunk))
	d.ok(blobContainer+"write-data", c, str("cat"), v)
	d.refused(errFull.Error(), blobTypes+"[static]outgoing-value.finish", v)
	if got := d.object(c, "cat", 0, all); !bytes.Equal(got, old) {
		t.Errorf("%d bytes of the old object are left", len(got))
	}
	if len(kv.data) != rows {
		t.Errorf("%d rows, there were %d", len(kv.data), rows)
	}
	// More than the host keeps for a guest is refused while it is written.
	v = d.call(blobTypes + "[static]outgoing-value.new-outgoing-value")
	stream := d.ok(blobTypes+"[method]outgoing-value.outgoing-value-write-body", v)
	var last engine.Val
	for range maxHeld/4096 + 1 {
		if last = d.call(streams+"[method]output-stream.blocking-write-and-flush", stream, engine.Bytes(make([]byte, 4096))); !last.IsSet() {
			break
		}
	}
	if last.IsSet() {
		t.Error("the host keeps any number of bytes")
	} else if said := d.call("wasi:io/error [method]error.to-debug-string", last.Payload().Payload()).Text(); !strings.Contains(said, "more than 16 MiB") {
		t.Errorf("it says %q", said)
	}
}

func TestBlobsReplacedMovedAndClearedLeaveNothingBehind(t *testing.T) {
	kv := &bus{}
	d := blobGuest(t, kv)
	photos, old := d.ok(blobStore+"create-container", str("photos")), d.ok(blobStore+"create-container", str("old"))
	empty := len(kv.data)
	long := bytes.Repeat([]byte("x"), 5*blobChunk)
	d.put(photos, "a", long)
	d.put(photos, "a", []byte("short"))
	d.put(old, "b", long)
	d.ok(blobStore+"copy-object", id("photos", "a"), id("old", "b")) // replaces
	d.ok(blobStore+"copy-object", id("photos", "a"), id("photos", "a"))
	d.ok(blobStore+"move-object", id("photos", "a"), id("photos", "a"))
	if got := d.object(old, "b", 0, all); string(got) != "short" {
		t.Errorf("copied %q", got)
	}
	d.ok(blobStore+"move-object", id("photos", "a"), id("old", "c"))
	if d.ok(blobContainer+"has-object", photos, str("a")).IsSet() || string(d.object(old, "c", 0, all)) != "short" {
		t.Error("the object did not move")
	}
	d.put(old, "d", long)
	d.ok(blobContainer+"delete-objects", old, engine.List(str("b"), str("none"), str("d")))
	if len(kv.data) != empty+2 {
		t.Errorf("%d rows are left beside one object's", len(kv.data)-empty)
	}
	d.put(old, "e", long)
	d.ok(blobContainer+"clear", old)
	if len(kv.data) != empty {
		t.Errorf("%d rows are left after the last object", len(kv.data)-empty)
	}
}

func TestBlobNamesAreListedOnceAndInOrder(t *testing.T) {
	for _, n := range []int{0, 1, blobPage - 1, blobPage, blobPage + 1, 2*blobPage + 5} {
		d := blobGuest(t, &bus{})
		c := d.ok(blobStore+"create-container", str("photos"))
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf("object %04d", i))
			d.put(c, want[i], []byte("x"))
		}
		for _, step := range []uint64{1, 7, blobPage, all} {
			stream := d.ok(blobContainer+"list-objects", c)
			var got []string
			for {
				v := d.ok(objectNamesOf+"read-stream-object-names", stream, engine.U64(step)).Elems()
				for _, name := range v[0].Elems() {
					got = append(got, name.Text())
				}
				if v[1].IsSet() {
					break
				}
				if len(v[0].Elems()) == 0 {
					t.Fatal("no names, and not the end")
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%d names, by %d: got %d", n, step, len(got))
			}
		}
		stream := d.ok(blobContainer+"list-objects", c)
		v := d.ok(objectNamesOf+"skip-stream-object-names", stream, engine.U64(3)).Elems()
		if int(v[0].Uint()) != min(n, 3) || (v[1].IsSet()) != (n <= 3) {
			t.Errorf("%d names: skipped %v", n, v)
		}
	}
}

// A damaged record is an error that says so, never bytes of something else.
func TestDamagedBlobIsNotGiven(t *testing.T) {
	kv := &bus{}
	d := blobGuest(t, kv)
	c := d.ok(blobStore+"create-container", str("photos"))
	d.put(c, "cat", []byte("purr"))
	for key, value := range kv.data {
		for _, bad := range [][]byte{nil, append([]byte{9}, value[1:]...), value[:len(value)-1]} {
			kv.data[key] = bad
			if key == "blob:photos/dcat0000000100000000" && len(bad) == len(value) {
				continue // other bytes of the same size are the store's to notice
			}
			if v := d.call(blobContainer+"get-data", c, str("cat"), engine.U64(0), engine.U64(all)); v.IsSet() {
				t.Errorf("%s as %x is taken", key, bad)
			}
		}
		kv.data[key] = value
	}
}
