package host

import "dunlin.dev/dunlin/agent/internal/engine"

// filesystemInterfaces link, because standard libraries import them, and have no directory to start from. No guest can
// get a descriptor, so its methods only need to exist.
func filesystemInterfaces() []*iface {
	funcs := map[string]fn{
		"[method]descriptor.is-same-object": f(unreachable, kHandle, kHandle),
		"filesystem-error-code":             f(func(*Guest, []engine.Val) (engine.Val, error) { return absent, nil }, kHandle),
	}
	denied := engine.Err(engine.Enum("not-permitted"))
	refuse(denied, funcs, "descriptor", map[string][]engine.Kind{
		"read-via-stream":     {kU64},
		"write-via-stream":    {kU64},
		"append-via-stream":   {},
		"advise":              {kU64, kU64, kEnum},
		"sync-data":           {},
		"get-flags":           {},
		"get-type":            {},
		"set-size":            {kU64},
		"set-times":           {kVariant, kVariant},
		"read":                {kU64, kU64},
		"write":               {kBytes, kU64},
		"read-directory":      {},
		"sync":                {},
		"create-directory-at": {kString},
		"stat":                {},
		"stat-at":             {kFlags, kString},
		"set-times-at":        {kFlags, kString, kVariant, kVariant},
		"link-at":             {kFlags, kString, kHandle, kString},
		"open-at":             {kFlags, kString, kFlags, kFlags},
		"readlink-at":         {kString},
		"remove-directory-at": {kString},
		"rename-at":           {kString, kHandle, kString},
		"symlink-at":          {kString, kString},
		"unlink-file-at":      {kString},
		"metadata-hash":       {},
		"metadata-hash-at":    {kFlags, kString},
	})
	refuse(denied, funcs, "directory-entry-stream", map[string][]engine.Kind{"read-directory-entry": {}})
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
			"get-directories": f(func(*Guest, []engine.Val) (engine.Val, error) { return engine.List(), nil }),
		}},
	}
}
