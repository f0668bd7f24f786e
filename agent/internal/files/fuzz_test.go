package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever a component calls in whatever order: nothing outside changes, and the ledger agrees with the disk and the limit.
func FuzzDirectory(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 1, 2, 2, 3, 1, 3, 1, 4, 4, 2, 1})
	f.Add([]byte{5, 6, 0, 0, 6, 1, 7, 5, 3, 3, 0, 6, 8, 6, 0, 9, 1, 2})
	f.Add([]byte{1, 8, 0, 2, 8, 9, 3, 7, 8, 0, 9, 9, 4, 9, 1, 6, 9, 200})
	names := []string{"a", "b", "d", "d/a", "d/e", "l", "l/a", "../out", "d/../b", "d/e/../../../out/x", "."}
	const limit = 40 << 10
	f.Fuzz(func(t *testing.T, ops []byte) {
		base := t.TempDir()
		out := filepath.Join(base, "out")
		must(t, errors.Join(os.Mkdir(out, 0o700), os.WriteFile(filepath.Join(out, "x"), []byte("secret"), 0o600)))
		whole, err := OpenPrivate(filepath.Join(base, "own"))
		must(t, err)
		d := whole.Within(limit)
		root := d.Folder()
		var held []*File
		for ; len(ops) >= 3; ops = ops[3:] {
			one, other, n := names[int(ops[1])%len(names)], names[int(ops[2])%len(names)], int64(ops[2])<<8
			switch ops[0] % 10 {
			case 0, 1:
				file, folder, err := root.Open(one, Options{Read: true, Write: ops[0]%2 == 0, Create: ops[2]%2 == 0, Truncate: ops[2]%3 == 0, Follow: ops[2]%5 != 0})
				if err == nil && file != nil {
					held = append(held, file)
				} else if err == nil {
					must(t, folder.Close())
				}
			case 2:
				_ = root.Mkdir(one)
			case 3:
				_ = root.Symlink(other, one)
			case 4:
				_ = root.Link(one, root, other)
			case 5:
				_ = root.Rename(one, root, other)
			case 6:
				_ = root.Unlink(one)
			case 7:
				_ = root.Rmdir(one)
			case 8:
				if len(held) > 0 {
					_ = held[int(ops[1])%len(held)].Resize(n)
				}
			case 9:
				if len(held) > 0 {
					must(t, held[0].Close())
					held = held[1:]
				}
			}
			if d.Used() > limit {
				t.Fatalf("%d bytes are used", d.Used())
			}
		}
		for _, one := range held {
			must(t, one.Close())
		}
		counted(t, d, filepath.Join(base, "own"))
		if b, err := os.ReadFile(filepath.Join(out, "x")); err != nil || string(b) != "secret" {
			t.Errorf("outside is %q, %v", b, err)
		}
		if list, _ := os.ReadDir(base); len(list) != 2 {
			t.Errorf("outside are %v", list)
		}
		if list, _ := os.ReadDir(out); len(list) != 1 {
			t.Errorf("outside are %v", list)
		}
		must(t, whole.Close())
	})
}
