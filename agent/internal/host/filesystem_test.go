package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
	"dunlin.dev/dunlin/test/guests"
)

const fsTypes = "wasi:filesystem/types [method]descriptor."

// disk is a guest with the files of a release at "/" and a private directory of that limit at "/data".
func disk(t *testing.T, limit int64) (d direct, release, data engine.Val, l *logs) {
	t.Helper()
	base := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(base, "release", "sub"), 0o700), os.WriteFile(filepath.Join(base, "release", "sub", "page.html"), []byte("<p>page</p>"), 0o600)); err != nil {
		t.Fatal(err)
	}
	read, err := files.OpenReadOnly(filepath.Join(base, "release"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := files.OpenPrivate(filepath.Join(base, "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(read.Close(), own.Close()); err != nil {
			t.Error(err)
		}
	})
	l = &logs{}
	d = newDirect(t, t.Context(), &Env{Log: l.add, Mounts: []Mount{{"/", read}, {"/data", own.Within(limit)}}})
	dirs := d.call("wasi:filesystem/preopens get-directories").Elems()
	if len(dirs) != 2 || dirs[0].Elems()[1].Text() != "/" || dirs[1].Elems()[1].Text() != "/data" {
		t.Fatalf("directories are %v", dirs)
	}
	return d, dirs[0].Elems()[0], dirs[1].Elems()[0], l
}

func flags(names string) engine.Val { return engine.Flags(strings.Fields(names)...) }

// open gives a descriptor: flags as "create truncate", "read write".
func (d direct) open(dir engine.Val, path, how, want string) engine.Val {
	d.t.Helper()
	return d.ok(fsTypes+"open-at", dir, flags("symlink-follow"), str(path), flags(how), flags(want))
}

// answers gives a function's error case, or "" for ok.
func (d direct) answers(name string, args ...engine.Val) string {
	d.t.Helper()
	v := d.call(name, args...)
	if v.IsSet() {
		return ""
	}
	return v.Payload().Text()
}

func (d direct) wants(code, name string, args ...engine.Val) {
	d.t.Helper()
	if got := d.answers(fsTypes+name, args...); got != code {
		d.t.Errorf("%s%v: %q, want %q", name, args, got, code)
	}
}

func (d direct) contents(dir engine.Val, path string) string {
	d.t.Helper()
	f := d.open(dir, path, "", "read")
	defer d.drop(f)
	return string(d.ok(fsTypes+"read", f, number(1<<20), number(0)).Elems()[0].Raw())
}

func TestFilesystemWithoutMountsHasNoDirectories(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{})
	if got := d.call("wasi:filesystem/preopens get-directories"); len(got.Elems()) != 0 {
		t.Errorf("it finds %v", got)
	}
}

func TestFilesystemFollowsItsText(t *testing.T) {
	d, release, data, _ := disk(t, 1<<20)
	if got := d.contents(release, "sub/page.html"); got != "<p>page</p>" {
		t.Errorf("a file of the release is %q", got)
	}
	f := d.open(data, "x", "create", "read write")
	if n := d.ok(fsTypes+"write", f, bin("hello"), number(3)); n.Uint() != 5 {
		t.Errorf("wrote %v", n)
	}
	got := d.ok(fsTypes+"read", f, number(100), number(0))
	if string(got.Elems()[0].Raw()) != "\x00\x00\x00hello" || !got.Elems()[1].IsSet() {
		t.Errorf("read %v", got)
	}
	if got := d.ok(fsTypes+"read", f, number(3), number(0)); got.Elems()[1].IsSet() || len(got.Elems()[0].Raw()) != 3 {
		t.Errorf("a part is %v", got)
	}
	d.ok(fsTypes+"set-size", f, number(5))
	st := d.ok(fsTypes+"stat", f)
	if st.Field("type").Text() != "regular-file" || st.Field("size").Uint() != 5 || st.Field("link-count").Uint() != 1 || !st.Field("data-modification-timestamp").IsSet() {
		t.Errorf("stat is %v", st)
	}
	stamp := engine.Variant("timestamp", engine.Record(engine.Field{Name: "seconds", Val: number(77)}, engine.Field{Name: "nanoseconds", Val: engine.U32(5)}))
	d.ok(fsTypes+"set-times", f, engine.Variant("no-change"), stamp)
	mtime := func(v engine.Val) (uint64, uint64) {
		at := v.Field("data-modification-timestamp").Payload()
		return at.Field("seconds").Uint(), at.Field("nanoseconds").Uint()
	}
	if s, n := mtime(d.ok(fsTypes+"stat-at", data, flags(""), str("x"))); s != 77 || n != 5 {
		t.Errorf("it changed at %d %d", s, n)
	}
	d.ok(fsTypes+"set-times-at", data, flags("symlink-follow"), str("x"), engine.Variant("now"), engine.Variant("now"))
	if s, _ := mtime(d.ok(fsTypes+"stat", f)); s < 1e9 {
		t.Errorf("it changed at %d", s)
	}
	for _, name := range []string{"sync", "sync-data"} {
		d.ok(fsTypes+name, f)
		d.ok(fsTypes+name, data)
	}
	d.ok(fsTypes+"advise", f, number(0), number(10), engine.Enum("random"))
	if got := d.ok(fsTypes+"get-type", f); got.Text() != "regular-file" {
		t.Errorf("type %v", got)
	}
	if got := d.ok(fsTypes+"get-type", data); got.Text() != "directory" {
		t.Errorf("type %v", got)
	}
	if got := d.ok(fsTypes+"get-flags", f).Names(); !slices.Equal(got, []string{"read", "write"}) {
		t.Errorf("flags %v", got)
	}
	if got := d.ok(fsTypes+"get-flags", data).Names(); !slices.Equal(got, []string{"read", "mutate-directory"}) {
		t.Errorf("flags %v", got)
	}
	if got := d.ok(fsTypes+"get-flags", release).Names(); !slices.Equal(got, []string{"read"}) {
		t.Errorf("flags %v", got)
	}

	d.ok(fsTypes+"create-directory-at", data, str("dir"))
	d.ok(fsTypes+"link-at", data, flags(""), str("x"), data, str("dir/again"))
	d.ok(fsTypes+"symlink-at", data, str("dir/again"), str("link"))
	if got := d.ok(fsTypes+"readlink-at", data, str("link")); got.Text() != "dir/again" {
		t.Errorf("the link is to %v", got)
	}
	if got := d.ok(fsTypes+"stat-at", data, flags(""), str("link")); got.Field("type").Text() != "symbolic-link" {
		t.Errorf("the link is %v", got)
	}
	again := d.open(data, "link", "", "read")
	if got := d.call(fsTypes+"is-same-object", f, again); !got.IsSet() {
		t.Error("two names of one file are not the same")
	}
	if got := d.call(fsTypes+"is-same-object", f, data); got.IsSet() {
		t.Error("a file is its folder")
	}
	before, byPath := d.ok(fsTypes+"metadata-hash", f), d.ok(fsTypes+"metadata-hash-at", data, flags("symlink-follow"), str("link"))
	if before.String() != byPath.String() {
		t.Errorf("hashes of one file: %v, %v", before, byPath)
	}
	d.ok(fsTypes+"write", f, bin("longer than before"), number(0))
	after := d.ok(fsTypes+"metadata-hash", f)
	if before.Field("lower").Uint() != after.Field("lower").Uint() || before.Field("upper").Uint() == after.Field("upper").Uint() {
		t.Errorf("the hash was %v, is %v", before, after)
	}
	dir := d.open(data, "dir", "directory", "read")
	d.ok(fsTypes+"rename-at", dir, str("again"), data, str("moved"))
	d.wants("", "unlink-file-at", data, str("moved"))
	d.wants("", "remove-directory-at", data, str("dir"))
	list := d.ok(fsTypes+"read-directory", data)
	var names []string
	for {
		e := d.ok("wasi:filesystem/types [method]directory-entry-stream.read-directory-entry", list)
		if !e.IsSet() {
			break
		}
		names = append(names, e.Payload().Field("name").Text()+" "+e.Payload().Field("type").Text())
	}
	slices.Sort(names)
	if got := strings.Join(names, ", "); got != "link symbolic-link, x regular-file" {
		t.Errorf("the folder has %s", got)
	}
}

func TestFilesystemRefusesByName(t *testing.T) {
	d, release, data, _ := disk(t, 1<<20)
	follow, no := flags("symlink-follow"), flags("")
	f := d.open(data, "x", "create", "read write")
	d.ok(fsTypes+"symlink-at", data, str("../secret"), str("out"))
	d.ok(fsTypes+"symlink-at", data, str("loop"), str("loop"))
	d.ok(fsTypes+"create-directory-at", data, str("dir"))
	open := func(code string, dir, how engine.Val, path, oflags, want string) {
		t.Helper()
		d.wants(code, "open-at", dir, how, str(path), flags(oflags), flags(want))
	}
	open("no-entry", data, follow, "none", "", "read")
	open("no-entry", data, follow, "", "", "read")
	open("not-permitted", data, follow, "../release/sub", "", "read")
	open("not-permitted", data, follow, "/etc/passwd", "", "read")
	open("not-permitted", data, follow, "out", "", "read")
	open("not-permitted", data, follow, "dir/../../x", "create", "write")
	open("not-permitted", release, follow, "../data/x", "", "read")
	open("loop", data, no, "out", "", "read")
	open("loop", data, follow, "loop", "", "read")
	open("invalid", data, follow, "a\x00b", "create", "write")
	open("name-too-long", data, follow, strings.Repeat("n", 300), "create", "write")
	open("exist", data, follow, "x", "create exclusive", "write")
	open("not-directory", data, follow, "x", "directory", "read")
	open("not-directory", data, follow, "x/y", "", "read")
	open("not-directory", f, follow, "y", "", "read")
	open("is-directory", data, follow, "dir", "", "write")
	open("invalid", data, follow, "y", "create directory", "read")
	open("read-only", release, follow, "sub/page.html", "", "write")
	open("read-only", release, follow, "new", "create", "read")
	open("read-only", release, follow, "sub/page.html", "truncate", "read")
	open("read-only", release, follow, "sub", "", "mutate-directory")
	d.wants("read-only", "create-directory-at", release, str("new"))
	d.wants("read-only", "unlink-file-at", release, str("sub/page.html"))
	d.wants("read-only", "rename-at", release, str("sub"), data, str("sub"))
	d.wants("read-only", "link-at", release, no, str("sub/page.html"), data, str("page"))
	d.wants("read-only", "set-times-at", release, no, str("sub"), engine.Variant("now"), engine.Variant("now"))
	d.wants("exist", "create-directory-at", data, str("dir"))
	d.wants("not-directory", "remove-directory-at", data, str("x"))
	d.wants("is-directory", "unlink-file-at", data, str("dir"))
	d.open(data, "dir/y", "create", "write")
	d.wants("not-empty", "remove-directory-at", data, str("dir"))
	d.wants("not-permitted", "symlink-at", data, str("/etc"), str("etc"))
	d.wants("not-permitted", "rename-at", data, str("x"), data, str("../x"))
	d.wants("not-permitted", "link-at", data, no, str("dir"), data, str("again"))
	d.wants("invalid", "link-at", data, follow, str("x"), data, str("again"))
	d.wants("not-directory", "rename-at", data, str("x"), f, str("y"))
	d.wants("invalid", "readlink-at", data, str("x"))
	d.wants("overflow", "set-size", f, engine.U64(1<<63))
	d.wants("file-too-large", "set-size", f, engine.U64(1<<63-1))
	d.wants("overflow", "read", f, number(1), engine.U64(1<<63))
	d.wants("not-directory", "read-directory", f)
	d.wants("bad-descriptor", "read", data, number(1), number(0))
	d.wants("bad-descriptor", "write-via-stream", data, number(0))
	page := d.open(release, "sub/page.html", "", "read")
	d.wants("bad-descriptor", "write", page, bin("x"), number(0))
	d.wants("bad-descriptor", "set-size", page, number(0))
	d.wants("bad-descriptor", "append-via-stream", page)
	d.wants("invalid", "set-times", f, engine.Variant("no-change"), engine.Variant("timestamp", engine.Record(engine.Field{Name: "seconds", Val: engine.U64(1 << 63)}, engine.Field{Name: "nanoseconds", Val: engine.U32(0)})))
	writeOnly := d.open(data, "x", "", "write")
	d.wants("bad-descriptor", "read-via-stream", writeOnly, number(0))
}

func TestFileStreams(t *testing.T) {
	d, release, data, _ := disk(t, 1<<20)
	page := d.open(release, "sub/page.html", "", "read")
	in := d.ok(fsTypes+"read-via-stream", page, number(3))
	d.drop(page) // the stream goes on
	const streams = "wasi:io/streams [method]"
	if got := d.ok(streams+"input-stream.blocking-read", in, number(4)); string(got.Raw()) != "page" {
		t.Errorf("read %q", got.Raw())
	}
	if got := d.ok(streams+"input-stream.blocking-read", in, number(100)); string(got.Raw()) != "</p>" {
		t.Errorf("read %q", got.Raw())
	}
	if got := d.call(streams+"input-stream.blocking-read", in, number(1)); got.IsSet() || got.Payload().Text() != "closed" {
		t.Errorf("at the end: %v", got)
	}
	f := d.open(data, "x", "create", "read write")
	// A file is always ready, and what is read is what is there by then: C libraries take an empty read for its end.
	in = d.ok(fsTypes+"read-via-stream", f, number(0))
	d.ok(fsTypes+"write", f, bin("now"), number(0))
	if got := d.ok(streams+"input-stream.read", in, number(2)); string(got.Raw()) != "no" {
		t.Errorf("read %q", got.Raw())
	}
	d.ok(fsTypes+"write", f, bin("?"), number(2))
	if got := d.ok(streams+"input-stream.read", in, number(2)); string(got.Raw()) != "?" {
		t.Errorf("read %q", got.Raw())
	}
	d.ok(fsTypes+"set-size", f, number(0))
	out := d.ok(fsTypes+"write-via-stream", f, number(2))
	d.ok(streams+"output-stream.blocking-write-and-flush", out, bin("one"))
	d.ok(streams+"output-stream.blocking-write-and-flush", out, bin("two"))
	end := d.ok(fsTypes+"append-via-stream", f)
	d.ok(streams+"output-stream.blocking-write-and-flush", end, bin("three"))
	d.ok(fsTypes+"write", f, bin("four"), number(20))
	d.ok(streams+"output-stream.blocking-write-and-flush", end, bin("five"))
	if got := d.contents(data, "x"); got != "\x00\x00onetwothree\x00\x00\x00\x00\x00\x00\x00fourfive" {
		t.Errorf("the file is %q", got)
	}
	big := strings.Repeat("0123456789", 30_000)
	d.ok(fsTypes+"write", d.open(data, "big", "create", "write"), bin(big), number(0))
	in = d.ok(fsTypes+"read-via-stream", d.open(data, "big", "", "read"), number(0))
	var got strings.Builder
	for {
		v := d.call(streams+"input-stream.blocking-read", in, number(1<<20))
		if !v.IsSet() {
			break
		}
		got.Write(v.Payload().Raw())
	}
	if got.String() != big {
		t.Errorf("%d bytes come back of %d", got.Len(), len(big))
	}
}

// The limit is named to whoever looks after the board, and has the spec's word for the guest.
func TestFilesLimitIsNamed(t *testing.T) {
	d, _, data, l := disk(t, 64<<10)
	f := d.open(data, "x", "create", "read write")
	d.wants("quota", "set-size", f, number(1<<20))
	if over := d.Over(); over == nil || over.Error() != "files limit of 64KiB" {
		t.Errorf("over %v", over)
	}
	out := d.ok(fsTypes+"write-via-stream", f, number(64<<10))
	v := d.call("wasi:io/streams [method]output-stream.blocking-write-and-flush", out, bin("x"))
	if v.IsSet() || v.Payload().Text() != "last-operation-failed" {
		t.Fatalf("a stream over the limit: %v", v)
	}
	if got := d.call("wasi:filesystem/types filesystem-error-code", v.Payload().Payload()); !got.IsSet() || got.Payload().Text() != "quota" {
		t.Errorf("its error is %v", got)
	}
	v = d.call("wasi:io/streams [method]output-stream.check-write", out)
	if v.IsSet() || v.Payload().Text() != "closed" {
		t.Errorf("afterwards: %v", v)
	}
	for i := range 15 {
		d.drop(d.open(data, fmt.Sprint("small", i), "create", "write"))
	}
	d.wants("quota", "open-at", data, flags(""), str("one more"), flags("create"), flags("write"))
	if len(*l) != 1 || !strings.Contains((*l)[0], "files limit of 64KiB") {
		t.Errorf("the log has %q", *l)
	}
	if got := d.call("wasi:filesystem/types filesystem-error-code", d.other()); got.IsSet() {
		t.Errorf("another stream's error is %v", got)
	}
}

// other is an error that is no file's.
func (d direct) other() engine.Val {
	v, err := own(d.Guest, typError, &ioError{errors.New("other")})
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// A guest holds a bounded number of the process's files, streams without their descriptors too, and none after its event.
func TestOpenFilesAreBounded(t *testing.T) {
	d, release, data, l := disk(t, 1<<20)
	before := openFiles(t)
	for n := 0; ; n++ {
		v := d.call(fsTypes+"open-at", data, flags(""), str("x"), flags("create"), flags("read write"))
		if !v.IsSet() {
			if v.Payload().Text() != "insufficient-memory" || n < maxOpen/2 {
				t.Errorf("after %d: %v", n, v)
			}
			break
		}
		if n >= 2*maxOpen {
			t.Fatal("there is no bound")
		}
		if n%3 == 0 {
			d.drop(v.Payload())
		} else if n%3 == 1 {
			d.call(fsTypes+"append-via-stream", v.Payload())
			d.drop(v.Payload())
		}
	}
	d.wants("insufficient-memory", "read-directory", release)
	if len(*l) == 0 || !strings.Contains((*l)[0], "128 files") {
		t.Errorf("the log has %q", *l)
	}
	if held := openFiles(t) - before; held > maxOpen {
		t.Errorf("%d files are open", held)
	}
	d.table.sweep()
	if d.Guest.open != 0 || openFiles(t) != before {
		t.Errorf("%d count as open, %d are", d.Guest.open, openFiles(t)-before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// A real component gets every function as its bindings have it.
func TestShelfUsesEveryFunction(t *testing.T) {
	c := compile(t, guests.Shelf)
	d, _, _, _ := disk(t, 64<<10)
	ask := func(method, target, body string) string {
		t.Helper()
		a, err := serve(t, c, Limits{}, d.env, request(method, target, strings.NewReader(body)))
		if err != nil {
			t.Fatalf("%s %s: %v", method, target, err)
		}
		return fmt.Sprintf("%d %s", a.status, a.body.String())
	}
	want := `200 write: 5
read: hello true
stat: DescriptorType::RegularFile 4 1
flags: DescriptorFlags(READ | WRITE)
types: DescriptorType::RegularFile DescriptorType::Directory
modified: 86400.000000007
link: b
same: true false
hash: true
dangling: Some("no-entry")
stream: [0, 104, 101, 33]
list: a DescriptorType::RegularFile, c DescriptorType::SymbolicLink, 
busy: Some("not-empty")
left: 
`
	if got := ask("POST", "/tour", ""); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for _, step := range []struct{ method, target, body, want string }{
		{"GET", "/sub/page.html", "", "200 <p>page</p>"},
		{"GET", "/none", "", "404 no such file\n"},
		{"GET", "/sub/", "", "200 page.html DescriptorType::RegularFile\n"},
		{"PUT", "/data/note", strings.Repeat("n", 10_000), "200 kept\n"},
		{"GET", "/data/note", "", "200 " + strings.Repeat("n", 10_000)},
		{"PUT", "/sub/page.html", "changed", "500 read-only\n"},
		{"DELETE", "/sub/page.html", "", "500 read-only\n"},
		{"POST", "/grow", "", "200 quota after 53248 bytes\n"},
		{"GET", "/data/", "", "200 grown DescriptorType::RegularFile\nnote DescriptorType::RegularFile\n"},
		{"DELETE", "/data/grown", "", "200 deleted\n"},
		{"POST", "/open?../x", "", "200 / read not-permitted\n/ create read-only\n/data read not-permitted\n/data create not-permitted\n"},
		{"POST", "/open?/etc/passwd", "", "200 / read not-permitted\n/ create not-permitted\n/data read not-permitted\n/data create not-permitted\n"},
	} {
		if got := ask(step.method, step.target, step.body); got != step.want {
			t.Errorf("%s %s: %.200q, want %q", step.method, step.target, got, step.want)
		}
	}
}
