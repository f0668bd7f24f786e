package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	slash "path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"dunlin.dev/dunlin/fleet/archive"
	"dunlin.dev/dunlin/fleet/wire"
)

// stateFolder is where `dunlin up` keeps its data, beside the manifest: never a release's files, whatever the pattern.
const stateFolder = ".dunlin"

// maxWalked bounds the files and folders that one pattern looks at.
const maxWalked = 200_000

// fileSources are a component's files and exclude_files, with Spin's meaning.
type fileSources struct {
	f         *faults
	name      string // the component's table
	include   []fileSource
	exclude   []glob
	directory string // the component's private one, in which no file may lie
}

// fileSource is one item of files: a path or a pattern, or a path with another place.
type fileSource struct {
	at          int
	source      string
	pattern     glob   // nil for a path
	destination string // relative; of a placement
	placed      bool
}

// Files of a component, as they are in the manifest's folder.
type Files struct {
	Archive []byte   // fleet/archive; nil without files
	Count   int      // files in it
	Watch   []string // the files and folders that it was made of: when one changes, Archive may
	Notes   []string // what is no fault and worth a word, with its place
}

// readFiles reads the keys of a component that grant it files.
func readFiles(t *table, c *Component) {
	c.Grants.Directory = readDirectory(t)
	s := &fileSources{f: t.f, name: t.name, directory: c.Grants.Directory}
	for _, pattern := range t.list("exclude_files", func(s string) error { _, err := parseGlob(s); return err }) {
		if g, err := parseGlob(pattern); err == nil {
			s.exclude = append(s.exclude, g)
		}
	}
	e := t.find("files")
	if e == nil {
		return
	}
	if e.value.kind != unstable.Array {
		t.wrong(e, "a list of paths, patterns and { source, destination } tables")
		return
	}
	for _, item := range e.value.items {
		if one, err := s.read(t, item); err != nil {
			t.f.add(item.at, "files in %s: %v", t.name, err)
		} else {
			s.include = append(s.include, one)
		}
	}
	if len(s.include) > 0 {
		c.files = s
	}
	if c.Grants.Directory == "/" && c.files != nil {
		t.f.add(e.at, "%s has files, and its directory at \"/\", where they are: give the directory a path of its own, as \"/data\"", t.name)
	}
}

func readDirectory(t *table) string {
	const usual = "/data"
	e := t.find("directory")
	switch {
	case e == nil:
		return ""
	case e.value.kind == unstable.Bool:
		if e.value.text == "true" {
			return usual
		}
		return ""
	case e.value.kind != unstable.String:
		t.wrong(e, `true, or the path where the component finds it, as in "/data"`)
		return ""
	}
	return t.checked(e, wire.CheckDirectory)
}

func (s *fileSources) read(t *table, item *node) (fileSource, error) {
	one := fileSource{at: item.at}
	switch item.kind {
	case unstable.String:
		one.source = item.text
	case unstable.Table:
		inner := &table{f: t.f, n: item, name: "files in " + t.name}
		from, to := inner.require("source"), inner.require("destination")
		inner.rest()
		source, _ := inner.str(from)
		destination, ok := inner.str(to)
		if !ok {
			return one, errors.New(`want { source = "assets", destination = "/" }`)
		}
		one.source, one.placed, one.destination = source, true, slash.Clean(strings.TrimLeft(destination, "/"))
		if one.destination != "." && archive.CheckPath(one.destination) != nil {
			return one, fmt.Errorf("destination %.80q: want a path as in %q", destination, "/assets")
		}
	default:
		return one, fmt.Errorf("%s, want a path, a pattern or a table", kindName(item.kind))
	}
	if slash.IsAbs(one.source) || one.source == "" || slices.Contains(strings.Split(one.source, "/"), "..") {
		return one, fmt.Errorf("%.80q: want a path without .. below the manifest's folder", one.source)
	}
	var err error
	if !one.placed && strings.ContainsAny(one.source, "*?[") {
		one.pattern, err = parseGlob(one.source)
	} else {
		one.source = slash.Clean(one.source)
	}
	return one, err
}

// collector gathers one component's files.
type collector struct {
	*fileSources
	folder fs.FS
	found  map[string]string // destination to source
	watch  map[string]bool
	size   int64
}

// Files reads the component's files from folder, the manifest's. An error is Errors.
func (c Component) Files(folder fs.FS) (*Files, error) {
	if c.files == nil {
		return &Files{}, nil
	}
	f := &faults{file: c.files.f.file, data: c.files.f.data}
	col := &collector{fileSources: c.files, folder: folder, found: map[string]string{}, watch: map[string]bool{}}
	for _, one := range c.files.include {
		before := len(col.found)
		if err := col.add(one); err != nil {
			f.add(one.at, "files in %s: %v", c.files.name, err)
		} else if len(col.found) == before && one.pattern != nil {
			f.note(one.at, "files in %s: %q adds no file", c.files.name, one.source)
		}
	}
	out := &Files{Watch: slices.Sorted(maps.Keys(col.watch))}
	if err := f.err(); err != nil {
		return out, err
	}
	out.Notes, out.Count = f.notes(), len(col.found)
	if out.Count == 0 {
		return out, nil
	}
	var err error
	if out.Archive, err = col.pack(); err != nil {
		f.add(c.files.include[0].at, "files in %s: %v", c.files.name, err)
	}
	return out, f.err()
}

func (c *collector) pack() ([]byte, error) {
	var files []archive.File
	size := 0
	for to, from := range c.found {
		data, err := fs.ReadFile(c.folder, from)
		if err != nil {
			return nil, err
		}
		if size += len(data); size > wire.MaxBlobBytes {
			return nil, errTooMuch
		}
		files = append(files, archive.File{Path: to, Data: data})
	}
	b, err := archive.Pack(files)
	if err == nil && len(b) > wire.MaxBlobBytes {
		err = errTooMuch
	}
	return b, err
}

var errTooMuch = fmt.Errorf("more than %s: exclude what the component doesn't read", formatSize(wire.MaxBlobBytes))

// add what one item of the list names.
func (c *collector) add(one fileSource) error {
	info, err := fs.Stat(c.folder, slash.Clean(one.source)) // a path that is there is no pattern, whatever it looks like
	switch {
	case err == nil && info.IsDir():
		from := slash.Clean(one.source)
		to := from
		if one.placed {
			to = one.destination
		}
		return c.walk(from, func(p string) string { return slash.Join(to, strings.TrimPrefix(strings.TrimPrefix(p, from), "/")) })
	case err == nil && info.Mode().IsRegular():
		from := slash.Clean(one.source)
		c.watch[from] = true
		to := from
		if one.placed {
			if to = one.destination; to == "." {
				return fmt.Errorf("%q is a file: name the one that it is to be, as in %q", from, "/"+slash.Base(from))
			}
		}
		return c.take(from, to, info)
	case err == nil:
		return fmt.Errorf("%q is neither a file nor a folder", one.source)
	case one.pattern != nil:
		return c.walk(fixed(slash.Clean(one.source)), func(p string) string {
			if one.pattern.match(p, false) {
				return p
			}
			return ""
		})
	case errors.Is(err, fs.ErrNotExist):
		c.watch[slash.Clean(one.source)] = true
		return fmt.Errorf("no file or folder %q in the manifest's folder", one.source)
	}
	return err
}

// walk takes the files below a folder to where place says; "" is nowhere. Symbolic links to folders are not followed, as in Spin.
func (c *collector) walk(from string, place func(string) string) error {
	walked := 0
	if _, err := fs.Stat(c.folder, from); errors.Is(err, fs.ErrNotExist) {
		c.watch[from] = true
		return nil // a pattern that nothing matches
	}
	return fs.WalkDir(c.folder, from, func(p string, d fs.DirEntry, err error) error {
		if walked++; err == nil && walked > maxWalked {
			err = fmt.Errorf("more than %d files and folders below %q: name a smaller folder", maxWalked, from)
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p == stateFolder {
				return fs.SkipDir
			}
			c.watch[p] = true
			return nil
		}
		to := place(p)
		if to == "" || slices.ContainsFunc(c.exclude, func(g glob) bool { return g.match(p, true) }) {
			return nil
		}
		info, err := fs.Stat(c.folder, p)
		if err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		return c.take(p, to, info)
	})
}

func (c *collector) take(from, to string, info fs.FileInfo) error {
	if err := archive.CheckPath(to); err != nil {
		return err
	}
	if c.directory != "" && (("/"+to) == c.directory || strings.HasPrefix("/"+to, c.directory+"/")) {
		return fmt.Errorf("%q would be at \"/%s\", in the component's own directory: place it elsewhere", from, to)
	}
	if other, there := c.found[to]; there {
		if other != from {
			return fmt.Errorf("%q and %q would both be at \"/%s\"", other, from, to)
		}
		return nil
	}
	if len(c.found) == archive.MaxFiles {
		return fmt.Errorf("more than %d files: exclude what the component doesn't read", archive.MaxFiles)
	}
	if c.size += info.Size(); c.size > wire.MaxBlobBytes {
		return errTooMuch
	}
	c.found[to] = from
	return nil
}
