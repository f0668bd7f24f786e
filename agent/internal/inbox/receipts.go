package inbox

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// receiptArea: "receipt/<session, hashed>/<packet id, 4 hex digits>"; the value is the session's name, and where there is a mark, 0 (no
// name has one) and the mark, in 8 bytes.
const receiptArea = "receipt/"

func receipts(session string) string {
	h := sha256.Sum256([]byte(session))
	return receiptArea + hex.EncodeToString(h[:16]) + "/"
}

// Receipt is the row that tells a message of QoS 2 from its repeats, over a power cut, until its sender has let go of the
// packet id (MQTT 3.1.1, 4.3.3). It is written with what makes the message durable. mark, made of the message, tells it from others that come
// under this id; 0: nothing does.
func Receipt(session string, packet uint16, mark uint64) trigger.Row {
	value := []byte(session)
	if mark != 0 {
		value = binary.BigEndian.AppendUint64(append(value, 0), mark)
	}
	return trigger.Row{Key: receiptKey(session, packet), Value: value}
}

func receiptKey(session string, packet uint16) string {
	return fmt.Sprintf("%s%04x", receipts(session), packet)
}

// Receipts that are kept: by session and packet id, their marks.
func (b *Box) Receipts() (map[string]map[uint16]uint64, error) {
	all := map[string]map[uint16]uint64{}
	for after := ""; ; {
		rows, err := b.store.Scan(receiptArea, after, scanBatch)
		if err != nil {
			return nil, fmt.Errorf("read receipts: %w", err)
		}
		for _, r := range rows {
			after = r.Key
			id, err := strconv.ParseUint(r.Key[strings.LastIndexByte(r.Key, '/')+1:], 16, 16)
			if err != nil {
				b.log.Error("a receipt can't be read", "record", r.Key)
				continue
			}
			session, mark := r.Value, uint64(0)
			if n := len(r.Value) - 9; n >= 0 && r.Value[n] == 0 {
				session, mark = r.Value[:n], binary.BigEndian.Uint64(r.Value[n+1:])
			}
			if all[string(session)] == nil {
				all[string(session)] = map[uint16]uint64{}
			}
			all[string(session)][uint16(id)] = mark
		}
		if len(rows) < scanBatch {
			return all, nil
		}
	}
}

// Keep a receipt of its own; durable when it returns.
func (b *Box) Keep(session string, packet uint16) error {
	r := Receipt(session, packet, 0)
	if err := b.store.Put(map[string][]byte{r.Key: r.Value}); err != nil {
		return fmt.Errorf("keep receipt: %w", err)
	}
	return nil
}

// Release packet ids; durable when it returns.
func (b *Box) Release(session string, packets ...uint16) error {
	rows := map[string][]byte{}
	for _, p := range packets {
		rows[receiptKey(session, p)] = nil
	}
	if err := b.store.Put(rows); err != nil {
		return fmt.Errorf("release packet ids: %w", err)
	}
	return nil
}

// Forget a session that has ended: its packet ids say nothing any more.
func (b *Box) Forget(session string) error {
	for {
		rows, err := b.store.Scan(receipts(session), "", scanBatch)
		if err == nil && len(rows) > 0 {
			err = b.store.Put(deletions(rows))
		}
		if err != nil {
			return fmt.Errorf("forget session: %w", err)
		}
		if len(rows) < scanBatch {
			return nil
		}
	}
}

func deletions(rows []store.Record) map[string][]byte {
	m := map[string][]byte{}
	for _, r := range rows {
		m[r.Key] = nil
	}
	return m
}
