package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAStoreThatIsNotOpenIsExaminedAndLeftAsItIs(t *testing.T) {
	from := t.TempDir()
	s := open(t, from)
	must(t, s.Put(map[string][]byte{"a/b": []byte("1")}))
	if _, err := Examine(from); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("while it is open: %v", err)
	}
	cut := func(change func(name string, b []byte) []byte) string { // as a power cut leaves it
		t.Helper()
		dir := t.TempDir()
		files, err := os.ReadDir(from)
		must(t, err)
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(from, f.Name()))
			must(t, err)
			if b = change(f.Name(), b); b != nil {
				must(t, os.WriteFile(filepath.Join(dir, f.Name()), b, 0o600))
			}
		}
		return dir
	}
	as := func(_ string, b []byte) []byte { return b }
	flipped := func(ext string, at ...int) func(string, []byte) []byte {
		return func(name string, b []byte) []byte {
			if filepath.Ext(name) == ext {
				for _, at := range at {
					b[at] ^= 1
				}
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		dir   string
		fails error
		says  string
	}{
		"sound":              {cut(as), nil, ""},
		"an empty folder":    {t.TempDir(), fs.ErrNotExist, ""},
		"a damaged database": {cut(flipped(".db", pageHeader+8, pageSize+pageHeader+8)), ErrDamaged, ""},
		"a truncated one":    {cut(func(name string, b []byte) []byte { return b[:min(len(b), 3*pageSize)] }), ErrDamaged, ""},
		"a damaged journal":  {cut(flipped(".journal", 600)), ErrDamaged, "journal"},
		"without its journal": {cut(func(name string, b []byte) []byte {
			if filepath.Ext(name) == ".journal" {
				return nil
			}
			return b
		}), ErrDamaged, "journal"},
	} {
		t.Run(name, func(t *testing.T) {
			before := contents(t, c.dir)
			e, err := Examine(c.dir)
			if !errors.Is(err, c.fails) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v", err, c.fails)
			}
			if name == "sound" && (e.Frames == 0 || e.Bytes == 0 || e.Schema != uint32(len(migrations))) {
				t.Errorf("it says %+v", e)
			}
			if after := contents(t, c.dir); !bytes.Equal(before, after) {
				t.Error("a file was changed")
			}
		})
	}
}

func contents(t *testing.T, dir string) (all []byte) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		must(t, err)
		all = append(append(all, f.Name()...), b...)
	}
	return all
}
