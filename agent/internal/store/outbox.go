package store

import "fmt"

// Message in an outbox.
type Message struct {
	ID          uint64 // grows; never given twice
	Application string // that published it
	Topic       string
	Payload     []byte
	QoS         byte
	Retain      bool
	Sequence    uint64 // of its topic, from 1 without gaps; of messages to the fleet
	Stamp              // when it was published
}

// Outbox gives up to n messages to the board's bus with an ID above after, oldest first: only such as are on the disk and not delivered.
// A damaged one is an error that names its id, after the good ones before it were given; Delivered drops it.
func (s *Store) Outbox(after uint64, n int) (messages []Message, err error) {
	s.mu.Lock()
	gone := make(map[uint64]struct{}, len(s.delivered))
	for id := range s.delivered {
		gone[id] = struct{}{}
	}
	s.mu.Unlock()
	newest := s.durable.Load()
	err = s.read(func(t table) error {
		return t.scan([]byte{kindOutbox}, outboxKey(after), func(k, row []byte) (bool, error) {
			if len(messages) >= n {
				return false, nil
			}
			id, err := outboxID(k)
			if err != nil || id > newest {
				return false, err
			}
			if _, ok := gone[id]; ok {
				return true, nil
			}
			m, err := readMessage(k, row)
			if err != nil {
				if len(messages) > 0 {
					return false, nil
				}
				return false, fmt.Errorf("message %d: %w", id, err)
			}
			messages = append(messages, m)
			return true, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return messages, nil
}

func readMessage(key, row []byte) (Message, error) {
	id, err := outboxID(key)
	if err != nil {
		return Message{}, err
	}
	v, err := unseal(key, row)
	if err != nil {
		return Message{}, err
	}
	return decodeMessage(id, v)
}

// Notify gives a channel that receives after commits that add messages. It holds one token: look into the outbox until it is empty.
func (s *Store) Notify() <-chan struct{} { return s.notify }

// Delivered removes messages. They are gone from Outbox at once, and from the disk with the next commit, or a few seconds
// later where none comes: a power cut in between makes them leave again, under the same id.
func (s *Store) Delivered(ids ...uint64) error {
	if err := s.usable(); err != nil {
		return fmt.Errorf("remove delivered messages: %w", err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("remove delivered messages: %w", ErrClosed)
	}
	for _, id := range ids {
		s.delivered[id] = struct{}{}
	}
	s.mu.Unlock()
	s.signal()
	return nil
}

// forget what was removed from the disk.
func (s *Store) forget(delivered []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range delivered {
		delete(s.delivered, id)
	}
}
