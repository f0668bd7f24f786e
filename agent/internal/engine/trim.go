package engine

// #include <malloc.h>
import "C"

import "runtime/debug"

// Trim gives the memory that compiling needed back to the system. glibc keeps what was freed between live blocks: hundreds of
// megabytes after a large component, for as long as the process lives.
func Trim() {
	debug.FreeOSMemory()
	C.malloc_trim(0)
}
