package engine

import "golang.org/x/sys/unix"

const (
	maxSlots = 32

	// A memory that has its whole 32-bit address range reserved, and a guard behind it, needs no bounds checks.
	fullReservation = 4 << 30
	fullGuard       = 32 << 20

	// headroom stays free beside the pool: compiled code, threads' stacks, the Go heap, the pool's tables.
	headroom = 4 << 30

	minSlots      = 2 // fewer are not worth a pool
	demandedSlots = 8 // concurrent instances without a pool
)

// plan says how linear memories get their address space. Compiled code depends on reservation and guard.
type plan struct {
	pooled             bool
	slots              int
	reservation, guard uint64
}

// planPool finds the largest pool of at most want slots (0: maxSlots) whose address space can be reserved; reserving a pool that
// doesn't fit aborts the process, so nothing is asked for that was not tried. Kernels with 39-bit addresses hold 32 slots.
func planPool(want int, canReserve func(bytes uint64) bool) plan {
	least := minSlots
	if want == 0 {
		want = maxSlots
	}
	least = min(least, want)
	for n := want; n >= least; n-- {
		if canReserve(uint64(n+1)*(fullReservation+fullGuard) + headroom) {
			return plan{pooled: true, slots: n, reservation: fullReservation, guard: fullGuard}
		}
	}
	return plan{slots: min(want, demandedSlots), reservation: 0, guard: 64 << 10}
}

// canReserve tries a mapping of that size; both the kernel's address space and RLIMIT_AS say no here.
func canReserve(bytes uint64) bool {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(bytes), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return false
	}
	return unix.MunmapPtr(p, uintptr(bytes)) == nil
}
