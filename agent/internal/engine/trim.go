package engine

// #include <malloc.h>
import "C"

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Trim gives the memory that compiling needed back to the system. glibc keeps what was freed between live blocks: hundreds of
// megabytes after a large component, for as long as the process lives.
func Trim() {
	debug.FreeOSMemory()
	C.malloc_trim(0)
}

// keepLittle bounds what glibc keeps of what guests made the host allocate. By itself it learns from one large block to keep up to
// 64 MiB for each thread that ever freed one, and Trim doesn't reach that.
var keepLittle = sync.OnceFunc(func() {
	C.mallopt(C.M_MMAP_THRESHOLD, 4<<20) // larger blocks go back at once
	C.mallopt(C.M_TRIM_THRESHOLD, 8<<20)
	C.mallopt(C.M_ARENA_MAX, C.int(max(2, runtime.NumCPU())))
})
