package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/archive"
)

func packed(t *testing.T, files ...archive.File) (b []byte, digest string) {
	t.Helper()
	b, err := archive.Pack(files)
	must(t, err)
	return b, fmt.Sprintf("sha256:%x", sha256.Sum256(b))
}

// A file that the card has changed, lost or added is made whole from the archive when it is opened the next time.
func TestDamagedFilesAreUnpackedAgain(t *testing.T) {
	b, digest := packed(t, archive.File{Path: "a/b/c.txt", Data: []byte("content")}, archive.File{Path: "top.txt", Data: nil})
	dir := t.TempDir()
	u, err := OpenUnpacked(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	asked := 0
	load := func() *Directory {
		t.Helper()
		d, err := u.Load(digest, func() ([]byte, error) { asked++; return b, nil })
		must(t, err)
		t.Cleanup(func() { must(t, d.Close()) })
		one, _, err := d.Folder().Open("a/b/c.txt", Options{Read: true})
		must(t, err)
		defer func() { must(t, one.Close()) }()
		p := make([]byte, 20)
		if n, _ := one.ReadAt(p, 0); string(p[:n]) != "content" {
			t.Errorf("it reads %q", p[:n])
		}
		return d
	}
	before := load()
	load()
	if asked != 1 {
		t.Fatalf("unpacked %d times", asked)
	}
	at := u.path(digest)
	for name, damage := range map[string]func() error{
		"changed":      func() error { return os.WriteFile(filepath.Join(at, "a/b/c.txt"), []byte("CONTENT"), 0o600) },
		"cut":          func() error { return os.Truncate(filepath.Join(at, "a/b/c.txt"), 3) },
		"lost":         func() error { return os.Remove(filepath.Join(at, "top.txt")) },
		"added":        func() error { return os.WriteFile(filepath.Join(at, "a/new"), nil, 0o600) },
		"folder added": func() error { return os.Mkdir(filepath.Join(at, "a/new"), 0o700) },
		"link instead": func() error {
			return errors.Join(os.Remove(filepath.Join(at, "top.txt")), os.Symlink("/dev/null", filepath.Join(at, "top.txt")))
		},
		"all lost":     func() error { return os.RemoveAll(at) },
		"file instead": func() error { return errors.Join(os.RemoveAll(at), os.WriteFile(at, nil, 0o600)) },
		"folder instead": func() error {
			return errors.Join(os.Remove(filepath.Join(at, "top.txt")), os.Mkdir(filepath.Join(at, "top.txt"), 0o700))
		},
	} {
		asked = 0
		must(t, damage())
		load()
		if asked != 1 {
			t.Errorf("%s: unpacked %d times", name, asked)
		}
	}
	if _, _, err := before.Folder().Open("top.txt", Options{Read: true}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("who had them open: %v", err)
	}
}

func TestFilesAreUnpackedWholeOrNotAtAll(t *testing.T) {
	b, digest := packed(t, archive.File{Path: "x", Data: []byte("x")})
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, writing+"1", "half"), 0o700))
	u, err := OpenUnpacked(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("%v are left of what was being unpacked", names)
	}
	if _, err := u.Load(digest, func() ([]byte, error) { return b[:len(b)-1], nil }); err == nil {
		t.Error("half an archive is unpacked")
	}
	gone := errors.New("gone")
	if _, err := u.Load(digest, func() ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("without its blob: %v", err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("%v are left", names)
	}
	d, err := u.Load(digest, func() ([]byte, error) { return b, nil })
	must(t, err)
	must(t, errors.Join(d.Close(), u.Drop("sha256:other")))
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("%v are kept", names)
	}
	must(t, errors.Join(u.Drop(digest), u.Drop(digest)))
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("%v are kept", names)
	}
}

func TestFilesOfAReleaseAreReadOnly(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600))
	d, err := OpenReadOnly(dir)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	f := d.Folder()
	own, _ := private(t, 1<<20)
	for what, err := range map[string]error{
		"write": opening(f, Options{Write: true}), "truncate": opening(f, Options{Read: true, Truncate: true}), "create": opening(f, Options{Create: true}),
		"mkdir": f.Mkdir("d"), "symlink": f.Symlink("x", "y"), "unlink": f.Unlink("x"), "rmdir": f.Rmdir("x"), "rename": f.Rename("x", f, "y"),
		"link": f.Link("x", f, "y"), "link out": f.Link("x", own.Folder(), "y"), "rename out": f.Rename("x", own.Folder(), "y"),
		"touch": f.SetTimes("x", true, time.Time{}, time.Unix(1, 0)),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	one, _, err := f.Open("x", Options{Read: true})
	must(t, err)
	defer func() { must(t, one.Close()) }()
	_, err = one.WriteAt([]byte("y"), 0)
	if !errors.Is(err, ErrReadOnly) || !errors.Is(one.Resize(0), ErrReadOnly) || !errors.Is(one.SetTimes(time.Time{}, time.Now()), ErrReadOnly) {
		t.Errorf("an open file is changed: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "x")); strings.TrimSpace(string(b)) != "x" {
		t.Errorf("it is %q now", b)
	}
}

func opening(f *Folder, o Options) error {
	_, _, err := f.Open("x", o)
	return err
}
