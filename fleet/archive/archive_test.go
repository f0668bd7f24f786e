package archive

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func pack(t *testing.T, files ...File) []byte {
	t.Helper()
	b, err := Pack(files)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	a, b, c := File{"a.txt", []byte("one")}, File{"b/c.txt", nil}, File{"b/d.txt", []byte("three")}
	one, other := pack(t, a, b, c), pack(t, c, a, b)
	if !bytes.Equal(one, other) {
		t.Error("their order changes the bytes")
	}
	want := "dunlin\x00\x01\x00\x00\x00\x03" + "\x00\x05\x00\x00\x00\x00\x00\x00\x00\x03a.txt" + "\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00b/c.txt" +
		"\x00\x07\x00\x00\x00\x00\x00\x00\x00\x05b/d.txt" + "onethree"
	if string(one) != want {
		t.Errorf("got %q\nwant %q", one, want)
	}
	files, err := Unpack(one)
	if err != nil || !slices.EqualFunc(files, []File{a, b, c}, func(a, b File) bool { return a.Path == b.Path && bytes.Equal(a.Data, b.Data) }) {
		t.Errorf("got back %q, %v", files, err)
	}
}

// No path of an archive leads out of the folder that it is unpacked into, or means something else on another file system.
func TestPathsThatCouldBeElsewhereAreRefused(t *testing.T) {
	for _, path := range []string{
		"", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/", "a\x00b", "a\nb", `a\b`, `..\x`, "\xff",
		strings.Repeat("a", MaxNameBytes+1), strings.Repeat("a/", MaxDepth) + "a", strings.Repeat(strings.Repeat("a", 200)+"/", 6) + "a",
	} {
		if _, err := Pack([]File{{Path: path}}); err == nil {
			t.Errorf("%q is packed", path)
		}
		b := append(binary.BigEndian.AppendUint16([]byte(magic+"\x00\x00\x00\x01"), uint16(len(path))), make([]byte, 8)...)
		if _, err := Unpack(append(b, path...)); err == nil {
			t.Errorf("%q is unpacked", path)
		}
	}
}

func TestFilesThatCantLieTogetherAreRefused(t *testing.T) {
	for _, paths := range [][]string{{}, {"a", "a"}, {"a", "a/b"}, {"a/b/c", "a/b"}, {"a", "a.b", "a/b"}} {
		var files []File
		for _, p := range paths {
			files = append(files, File{Path: p})
		}
		if _, err := Pack(files); err == nil {
			t.Errorf("%q are packed", paths)
		}
	}
	if _, err := Pack(make([]File, MaxFiles+1)); err == nil || !strings.Contains(err.Error(), "limit") && !strings.Contains(err.Error(), "want 1 to") {
		t.Errorf("too many: %v", err)
	}
}

func TestHalfAnArchiveIsNone(t *testing.T) {
	whole := pack(t, File{"a", []byte("12345")}, File{"b", []byte("6")})
	for n := range whole {
		if _, err := Unpack(whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes unpack", n, len(whole))
		}
	}
	if _, err := Unpack(append(slices.Clone(whole), 0)); err == nil {
		t.Error("one byte too many is taken")
	}
	huge := slices.Clone(whole)
	copy(huge[len(magic)+4+2:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	if _, err := Unpack(huge); err == nil {
		t.Error("a size that can't be is taken")
	}
	many := []byte(magic + "\x00\x00\x27\x10")
	if n := testing.AllocsPerRun(10, func() { _, _ = Unpack(many) }); n > 20 {
		t.Errorf("a head that only announces files costs %v allocations", n)
	}
}

// What unpacks, packs to the same bytes: a digest of the bytes is one of the files.
func FuzzUnpack(f *testing.F) {
	for _, files := range [][]File{{{"a", []byte("x")}}, {{"a/b", nil}, {"a/c", []byte("yz")}, {"d", []byte("0")}}} {
		b, err := Pack(files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := Unpack(b)
		if err != nil {
			return
		}
		again, err := Pack(files)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q packs to %q, %v", b, again, err)
		}
	})
}
