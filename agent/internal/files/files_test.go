package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// private opens a directory with a limit, and a secret beside it.
func private(t *testing.T, limit int64) (*Directory, string) {
	t.Helper()
	base := t.TempDir()
	must(t, os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600))
	d, err := OpenPrivate(filepath.Join(base, "own"))
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d.Within(limit), filepath.Join(base, "own")
}

// file is created, or opened, and closed at the end.
func file(t *testing.T, f *Folder, name string) *File {
	t.Helper()
	one, _, err := f.Open(name, Options{Read: true, Write: true, Create: true, Follow: true})
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	return one
}

func put(t *testing.T, f *Folder, name, data string) {
	t.Helper()
	one := file(t, f, name)
	_, err := one.WriteAt([]byte(data), 0)
	must(t, errors.Join(err, one.Close()))
}

// counted holds the ledger against what a new walk counts.
func counted(t *testing.T, d *Directory, dir string) {
	t.Helper()
	want, err := count(dir)
	must(t, err)
	if got := d.Used(); got != want {
		t.Errorf("the ledger says %d, the disk %d", got, want)
	}
}

// No path leads out, whatever links a component makes: not for reading, making, renaming, linking or removing.
func TestNoPathLeadsOutOfADirectory(t *testing.T) {
	d, dir := private(t, 1<<20)
	f := d.Folder()
	must(t, f.Mkdir("sub"))
	put(t, f, "sub/x", "x")
	for to, name := range map[string]string{"../secret": "up", "..": "parent", "sub/../../secret": "around", "loop": "loop", "parent/secret": "chain", "../own/../secret": "back"} {
		must(t, f.Symlink(to, name))
	}
	if err := f.Symlink("/etc/passwd", "absolute"); !errors.Is(err, ErrEscape) {
		t.Errorf("a link to an absolute path: %v", err)
	}
	outside := []string{"../secret", "/etc/passwd", "sub/../../secret", "up", "parent", "parent/secret", "around", "chain", "back", "loop", "sub/../up", "..", "../own/sub/x"}
	for _, name := range outside {
		for _, o := range []Options{{Read: true, Follow: true}, {Write: true, Create: true, Follow: true}, {Write: true, Truncate: true, Follow: true}, {Directory: true, Follow: true}, {Read: true}} {
			if one, folder, err := f.Open(name, o); err == nil {
				t.Errorf("%s opens: %v %v", name, one, folder)
			}
		}
		if info, err := f.Stat(name, true); err == nil {
			t.Errorf("%s is seen: %v", name, info)
		}
		if err := f.SetTimes(name, true, time.Time{}, time.Unix(1, 0)); err == nil {
			t.Errorf("%s is touched", name)
		}
		for what, err := range map[string]error{
			"mkdir": f.Mkdir(name + "/new"), "symlink": f.Symlink("x", name+"/new"), "unlink": f.Unlink(name + "/secret"),
			"rename from": f.Rename(name+"/secret", f, "mine"), "rename to": f.Rename("sub/x", f, name+"/x"),
			"link from": f.Link(name+"/secret", f, "mine"), "link to": f.Link("sub/x", f, name+"/x"),
		} {
			if err == nil {
				t.Errorf("%s through %s is done", what, name)
			}
		}
	}
	// A link that leads out is itself inside: it can be read, renamed and removed.
	if to, err := f.Readlink("up"); err != nil || to != "../secret" {
		t.Errorf("readlink: %q, %v", to, err)
	}
	must(t, f.Rename("up", f, "sub/up"))
	must(t, f.Link("sub/up", f, "again"))
	must(t, f.Unlink("again"))
	_, sub, err := f.Open("sub", Options{Read: true, Directory: true})
	must(t, err)
	for _, name := range []string{"..", "../sub/x", "../loop", "up"} {
		if _, _, err := sub.Open(name, Options{Read: true, Follow: true}); !errors.Is(err, ErrEscape) {
			t.Errorf("%s from a folder that was opened: %v", name, err)
		}
	}
	must(t, sub.Close())
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the secret is %q, %v", b, err)
	}
	counted(t, d, dir)
}

// While one event swaps a folder for a link that leads out, another that opens files through it gets the inside or an error.
func TestAFolderThatTurnsIntoALinkLeadsNowhere(t *testing.T) {
	d, dir := private(t, 1<<20)
	must(t, os.Mkdir(filepath.Join(filepath.Dir(dir), "out"), 0o700))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "out", "x"), []byte("secret"), 0o600))
	f := d.Folder()
	must(t, f.Mkdir("real"))
	put(t, f, "real/x", "inside")
	must(t, f.Symlink("../out", "link"))
	must(t, f.Rename("real", f, "at"))
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := errors.Join(f.Rename("at", f, "real"), f.Rename("link", f, "at"), f.Rename("at", f, "link"), f.Rename("real", f, "at")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	opened := 0
	for range 3000 {
		if one, _, err := f.Open("at/x", Options{Read: true, Follow: true}); err == nil {
			b := make([]byte, 16)
			if n, _ := one.ReadAt(b, 0); string(b[:n]) != "inside" {
				t.Errorf("read %q", b[:n])
			}
			opened++
			must(t, one.Close())
		}
		if one, _, err := f.Open("at/new", Options{Write: true, Create: true, Follow: true}); err == nil {
			must(t, one.Close())
		}
		_ = f.Unlink("at/new")
		_ = f.Rename("at/x", f, "at/x")
	}
	close(stop)
	swapping.Wait()
	if opened == 0 {
		t.Error("nothing was opened")
	}
	if names, _ := os.ReadDir(filepath.Join(filepath.Dir(dir), "out")); len(names) != 1 {
		t.Errorf("outside are %v", names)
	}
	counted(t, d, dir)
}

// Whatever a component does, its directory holds no more than its limit, and the ledger agrees with the disk.
func TestNoTrickHoldsMoreThanTheLimit(t *testing.T) {
	const limit = 64 << 10
	over := func(t *testing.T, err error) {
		t.Helper()
		var quota *QuotaError
		if !errors.As(err, &quota) || quota.Limit != limit {
			t.Errorf("got %v, want the quota's error", err)
		}
	}
	for name, try := range map[string]func(t *testing.T, f *Folder){
		"filling": func(t *testing.T, f *Folder) {
			one := file(t, f, "x")
			var at int64
			var err error
			for err == nil {
				at, err = one.WriteAt(make([]byte, 4000), -1)
			}
			over(t, err)
			if at < limit-4000 {
				t.Errorf("only %d bytes fit", at)
			}
			must(t, one.Close())
		},
		"empty files": func(t *testing.T, f *Folder) {
			for i := range limit / entryBytes {
				put(t, f, fmt.Sprint(i), "")
			}
			_, _, err := f.Open("one more", Options{Create: true, Write: true})
			over(t, err)
			over(t, f.Mkdir("folder"))
			over(t, f.Symlink("0", "link"))
			over(t, f.Link("0", f, "link"))
		},
		"holes": func(t *testing.T, f *Folder) {
			one := file(t, f, "x")
			over(t, one.Resize(limit+1))
			_, err := one.WriteAt([]byte("x"), 1<<40)
			over(t, err)
			must(t, one.Resize(limit))
			must(t, one.Resize(1))
			must(t, one.Close())
		},
		"overflow": func(t *testing.T, f *Folder) {
			one := file(t, f, "x")
			if err := one.Resize(1<<63 - 1); !errors.Is(err, syscall.EFBIG) {
				t.Errorf("resize: %v", err)
			}
			if _, err := one.WriteAt([]byte("xx"), 1<<63-2); !errors.Is(err, syscall.EFBIG) {
				t.Errorf("write: %v", err)
			}
			must(t, one.Close())
		},
		"files without a name": func(t *testing.T, f *Folder) {
			one := file(t, f, "x")
			must(t, one.Resize(limit/2))
			must(t, f.Unlink("x"))
			other := file(t, f, "y")
			must(t, other.Resize(limit/2))
			put(t, f, "y", "y")
			_, _, err := f.Open("z", Options{Create: true, Write: true})
			over(t, err)
			over(t, one.Resize(limit))
			must(t, one.Close()) // gives its half back
			put(t, f, "z", strings.Repeat("z", limit/4))
			must(t, other.Close())
		},
		"renaming over": func(t *testing.T, f *Folder) {
			for range 100 {
				put(t, f, "new", strings.Repeat("x", limit/2))
				must(t, f.Rename("new", f, "old"))
			}
			held := file(t, f, "old")
			put(t, f, "new", "x")
			must(t, f.Rename("new", f, "old"))
			one := file(t, f, "old")
			over(t, one.Resize(limit/2+1))
			must(t, errors.Join(held.Close(), one.Resize(limit/2+1), one.Close()))
		},
		"several names": func(t *testing.T, f *Folder) {
			put(t, f, "a", strings.Repeat("x", limit/2))
			must(t, f.Link("a", f, "b"))
			must(t, f.Rename("a", f, "b")) // two names of one file: nothing happens
			must(t, f.Unlink("a"))
			must(t, f.Link("b", f, "c"))
			put(t, f, "d", "d")
			must(t, f.Rename("d", f, "c"))
			must(t, f.Unlink("b"))
		},
		"truncating while opening": func(t *testing.T, f *Folder) {
			for range 100 {
				one, _, err := f.Open("x", Options{Write: true, Create: true, Truncate: true})
				must(t, err)
				must(t, errors.Join(one.Resize(limit), one.Close()))
			}
		},
		"folders": func(t *testing.T, f *Folder) {
			must(t, f.Mkdir("a"))
			must(t, f.Mkdir("a/b"))
			must(t, f.Rename("a/b", f, "c"))
			if err := f.Rmdir("a/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			must(t, f.Mkdir("d"))
			must(t, f.Rename("d", f, "c")) // in the place of an empty one
			must(t, f.Rmdir("c"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := private(t, limit)
			try(t, d.Folder())
			counted(t, d, dir)
			if used := d.Used(); used > limit {
				t.Errorf("%d bytes are used", used)
			}
			if len(d.ledger.open) != 0 {
				t.Errorf("%d files count as open", len(d.ledger.open))
			}
			again, err := OpenPrivate(dir) // as after a restart
			must(t, err)
			if again.Used() != d.Used() {
				t.Errorf("after a restart %d bytes are used, before it %d", again.Used(), d.Used())
			}
			must(t, again.Close())
		})
	}
}

func TestConcurrentEventsShareOneLimit(t *testing.T) {
	const limit = 256 << 10
	d, dir := private(t, limit)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			f := d.Folder()
			for i := range 50 {
				name := fmt.Sprintf("%d-%d", n, i%7)
				one, _, err := f.Open(name, Options{Write: true, Create: true, Truncate: i%2 == 0})
				if err != nil {
					continue
				}
				for range 5 {
					_, _ = one.WriteAt(make([]byte, 3000), -1)
				}
				if i%3 == 0 {
					_ = f.Unlink(name)
				}
				_ = f.Rename(name, f, "shared")
				if err := one.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if used := d.Used(); used > limit || used == 0 {
		t.Errorf("%d bytes are used", used)
	}
	counted(t, d, dir)
}

// Folders go only so deep that whoever walks them can.
func TestFoldersAreBoundedInDepth(t *testing.T) {
	d, dir := private(t, 1<<30)
	f := d.Folder()
	at, depth := f, 0
	for ; ; depth++ {
		if err := at.Mkdir("d"); err != nil {
			if !errors.Is(err, syscall.ENAMETOOLONG) {
				t.Fatal(err)
			}
			break
		}
		_, next, err := at.Open("d", Options{Read: true})
		must(t, err)
		must(t, at.Close())
		at = next
	}
	if depth != maxDepth {
		t.Errorf("%d levels can be made", depth)
	}
	// Nor by moving one branch below another.
	must(t, f.Mkdir("other"))
	must(t, f.Mkdir("other/more"))
	if err := f.Rename("other", at, "other"); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a branch below the deepest folder: %v", err)
	}
	must(t, at.Close())
	must(t, f.Rename("other", f, "d/other"))
	if err := f.Rename("d", f, "d/other/d"); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a folder below itself: %v", err)
	}
	counted(t, d, dir)
	must(t, os.RemoveAll(dir))
}

func TestPathsThatNoFileHasAreRefused(t *testing.T) {
	d, _ := private(t, 1<<20)
	f := d.Folder()
	put(t, f, "file", "x")
	must(t, f.Mkdir("dir"))
	for name, want := range map[string]error{
		"": syscall.ENOENT, "a\x00b": syscall.EINVAL, strings.Repeat("a", 256): syscall.ENAMETOOLONG, strings.Repeat("a/", 3000): syscall.ENAMETOOLONG,
		"file/": syscall.ENOTDIR, "file/x": syscall.ENOTDIR, "none": syscall.ENOENT, "none/": syscall.ENOENT, "/": ErrEscape, "../": ErrEscape,
	} {
		if _, err := f.Stat(name, true); !errors.Is(err, want) {
			t.Errorf("stat %.20q: %v, want %v", name, err, want)
		}
		if _, _, err := f.Open(name, Options{Read: true, Follow: true}); !errors.Is(err, want) {
			t.Errorf("open %.20q: %v, want %v", name, err, want)
		}
		if err := f.Unlink(name); err == nil {
			t.Errorf("unlink %.20q is done", name)
		}
	}
	for what, got := range map[string]error{
		"mkdir .": f.Mkdir("."), "mkdir dir/": f.Mkdir("dir/"), "rmdir .": f.Rmdir("."), "rmdir file": f.Rmdir("file"), "unlink dir": f.Unlink("dir"),
		"symlink over": f.Symlink("x", "file"), "link over": f.Link("file", f, "dir"), "rename .": f.Rename(".", f, "x"),
	} {
		want := map[string]error{"mkdir .": syscall.EEXIST, "mkdir dir/": syscall.EEXIST, "rmdir .": syscall.EINVAL, "rmdir file": syscall.ENOTDIR,
			"unlink dir": syscall.EISDIR, "symlink over": syscall.EEXIST, "link over": syscall.EEXIST, "rename .": syscall.EINVAL}[what]
		if !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	for name, o := range map[string]Options{"dir": {Write: true}, "file": {Create: true, Exclusive: true, Write: true}, "x": {Create: true, Directory: true}, "dir/": {Create: true, Write: true}} {
		if _, _, err := f.Open(name, o); err == nil {
			t.Errorf("open %s with %+v is done", name, o)
		}
	}
	other, _ := private(t, 1<<20)
	if err := f.Rename("file", other.Folder(), "file"); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("a rename into another directory: %v", err)
	}
}

// Pipes and devices that somebody else put there are not opened: a pipe would hold the event up.
func TestOnlyFilesAndFoldersAreOpened(t *testing.T) {
	d, dir := private(t, 1<<20)
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	if _, _, err := d.Folder().Open("pipe", Options{Read: true}); !errors.Is(err, syscall.EACCES) {
		t.Errorf("a pipe: %v", err)
	}
}
