package engine

// #define _GNU_SOURCE
// #include <link.h>
// #include <malloc.h>
// #include <sys/mman.h>
// #include <unistd.h>
//
// static int drop_of(struct dl_phdr_info *info, size_t size, void *data) {
//   uintptr_t page = sysconf(_SC_PAGESIZE);
//   for (int i = 0; i < info->dlpi_phnum; i++) {
//     const ElfW(Phdr) *p = &info->dlpi_phdr[i];
//     uintptr_t from = (info->dlpi_addr + p->p_vaddr + page - 1) & ~(page - 1);
//     uintptr_t to = (info->dlpi_addr + p->p_vaddr + p->p_memsz) & ~(page - 1);
//     if (p->p_type == PT_LOAD && !(p->p_flags & PF_W) && to > from) madvise((void *)from, to - from, MADV_DONTNEED);
//   }
//   return 1; // the first is the program itself
// }
//
// static void drop_program(void) { dl_iterate_phdr(drop_of, NULL); }
import "C"

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Trim gives back to the system what a start or compiling needed. glibc keeps what was freed between live blocks: hundreds of
// megabytes after a large component, for as long as the process lives. Of the program's own code and constants, both use far more than what
// runs on: segments that nobody can write to (dl_iterate_phdr(3), PF_W) are let go of. They stay in the page cache, and what is used is mapped again.
func Trim() {
	debug.FreeOSMemory()
	C.malloc_trim(0)
	C.drop_program()
}

// keepLittle bounds what glibc keeps of what guests made the host allocate. By itself it learns from one large block to keep up to
// 64 MiB for each thread that ever freed one, and Trim doesn't reach that.
var keepLittle = sync.OnceFunc(func() {
	C.mallopt(C.M_MMAP_THRESHOLD, 4<<20) // larger blocks go back at once
	C.mallopt(C.M_TRIM_THRESHOLD, 8<<20)
	C.mallopt(C.M_ARENA_MAX, C.int(max(2, runtime.NumCPU())))
})
