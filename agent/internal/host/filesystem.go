package host

import (
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
)

// Mount is a directory that a guest finds, under a path of its own.
type Mount struct {
	Path      string // absolute
	Directory *files.Directory
}

// Short for parts of the functions' types: the kinds of path-flags, a path, new-timestamp.
const (
	kPathFlags = kFlags
	kPath      = kString
	kTime      = kVariant
)

// onFile and onFolder are a function on a descriptor of that kind; its error is worded by fileCode.
type (
	onFile   func(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error)
	onFolder func(g *Guest, f *files.Folder, a []engine.Val) (engine.Val, error)
)

// filesystemInterfaces are wasi:filesystem over the event's mounts. A guest without any finds no directory to start from.
func filesystemInterfaces() []*iface {
	funcs := map[string]fn{
		"[method]descriptor.is-same-object":                   f(isSameObject, kHandle, kHandle),
		"[method]directory-entry-stream.read-directory-entry": f(readDirectoryEntry, kHandle),
		"filesystem-error-code":                               f(filesystemErrorCode, kHandle),
	}
	method := func(name string, do onFile, params ...engine.Kind) {
		funcs["[method]descriptor."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			d, err := get[descriptor](g, a[0])
			if err != nil {
				return none, err
			}
			v, err := do(g, d, a[1:])
			return result(v, err, g.fileCode)
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	folder := func(name string, do onFolder, params ...engine.Kind) {
		method(name, func(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
			if d.folder == nil {
				return none, errNotDirectory
			}
			return do(g, d.folder, a)
		}, params...)
	}
	method("read-via-stream", readViaStream, kU64)
	method("write-via-stream", writeViaStream, kU64)
	method("append-via-stream", appendViaStream)
	method("read", readFile, kU64, kU64)
	method("write", writeFile, kBytes, kU64)
	method("set-size", setSize, kU64)
	method("advise", advise, kU64, kU64, kEnum)
	method("sync", syncer(false))
	method("sync-data", syncer(true))
	method("get-flags", getFlags)
	method("get-type", getType)
	method("stat", stat)
	method("set-times", setTimes, kTime, kTime)
	method("metadata-hash", metadataHash)
	method("open-at", openAt, kPathFlags, kPath, kFlags, kFlags)
	folder("read-directory", readDirectory)
	folder("create-directory-at", unit(func(f *files.Folder, a []engine.Val) error { return f.Mkdir(a[0].Text()) }), kPath)
	folder("remove-directory-at", unit(func(f *files.Folder, a []engine.Val) error { return f.Rmdir(a[0].Text()) }), kPath)
	folder("unlink-file-at", unit(func(f *files.Folder, a []engine.Val) error { return f.Unlink(a[0].Text()) }), kPath)
	folder("symlink-at", unit(func(f *files.Folder, a []engine.Val) error { return f.Symlink(a[0].Text(), a[1].Text()) }), kPath, kPath)
	folder("readlink-at", readlinkAt, kPath)
	folder("link-at", linkAt, kPathFlags, kPath, kHandle, kPath)
	folder("rename-at", renameAt, kPath, kHandle, kPath)
	folder("stat-at", statAt, kPathFlags, kPath)
	folder("set-times-at", setTimesAt, kPathFlags, kPath, kTime, kTime)
	folder("metadata-hash-at", metadataHashAt, kPathFlags, kPath)
	return []*iface{
		{
			name:  "wasi:filesystem/types" + wasi,
			funcs: funcs,
			resources: resources{
				"descriptor":             typDescriptor,
				"directory-entry-stream": typDirectoryEntryStream,
				"input-stream":           typInputStream,
				"output-stream":          typOutputStream,
				"error":                  typError,
			},
		},
		{name: "wasi:filesystem/preopens" + wasi, resources: resources{"descriptor": typDescriptor}, funcs: map[string]fn{
			"get-directories": f(getDirectories),
		}},
	}
}

// unit is a function on a folder that gives nothing.
func unit(do func(f *files.Folder, a []engine.Val) error) onFolder {
	return func(_ *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) { return okUnit, do(f, a) }
}

func getDirectories(g *Guest, _ []engine.Val) (engine.Val, error) {
	list := make([]engine.Val, 0, len(g.env.Mounts))
	for _, m := range g.env.Mounts {
		d, err := own(g, typDescriptor, &descriptor{folder: m.Directory.Folder(), read: true})
		if err != nil {
			return none, err
		}
		list = append(list, engine.Tuple(d, engine.String(m.Path)))
	}
	return engine.List(list...), nil
}

func readlinkAt(_ *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	to, err := f.Readlink(a[0].Text())
	return engine.OK(engine.String(to)), err
}

// other is the folder of a descriptor that is an argument.
func other(g *Guest, v engine.Val) (*files.Folder, error) {
	d, err := get[descriptor](g, v)
	if err != nil {
		return nil, misuse(err)
	}
	if d.folder == nil {
		return nil, errNotDirectory
	}
	return d.folder, nil
}

func linkAt(g *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	to, err := other(g, a[2])
	if err != nil {
		return none, err
	}
	if follows(a[0]) {
		return none, errInvalid
	}
	return okUnit, f.Link(a[1].Text(), to, a[3].Text())
}

func renameAt(g *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	to, err := other(g, a[1])
	if err != nil {
		return none, err
	}
	return okUnit, f.Rename(a[0].Text(), to, a[2].Text())
}

func statAt(_ *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	info, err := f.Stat(a[1].Text(), follows(a[0]))
	if err != nil {
		return none, err
	}
	return engine.OK(statOf(info)), nil
}

func setTimesAt(g *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	accessed, modified, err := newTimes(g, a[2], a[3])
	if err != nil {
		return none, err
	}
	return okUnit, f.SetTimes(a[1].Text(), follows(a[0]), accessed, modified)
}

func metadataHashAt(_ *Guest, f *files.Folder, a []engine.Val) (engine.Val, error) {
	info, err := f.Stat(a[1].Text(), follows(a[0]))
	if err != nil {
		return none, err
	}
	return engine.OK(hashOf(info)), nil
}
