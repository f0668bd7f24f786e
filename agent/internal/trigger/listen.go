package trigger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Listen on a TCP address for a source of one kind. taken is the way out when another program has the address, denied when
// only root may; both end the sentence.
func Listen(ctx context.Context, kind Kind, addr, taken, denied string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen for %s on %s: the address is in use; %s: %w", kind, addr, taken, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen for %s on %s: not permitted; %s: %w", kind, addr, denied, err)
	}
	return nil, fmt.Errorf("listen for %s on %s: %w", kind, addr, err)
}
