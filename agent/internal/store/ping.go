package store

import (
	"context"
	"errors"
	"fmt"
)

// errAlive takes a Ping out of its group, so that it writes nothing.
var errAlive = errors.New("alive")

// Ping goes through the committer, and writes nothing: nil says that the next commit would be taken up. It is for health checks, which must not wear the flash.
func (s *Store) Ping(ctx context.Context) error {
	err := s.do(ctx, &job{check: func(table) error { return errAlive }})
	if errors.Is(err, errAlive) {
		return nil
	}
	return fmt.Errorf("ping store: %w", err)
}
