package store

import "encoding/binary"

// surveyUplink counts what a row says, at Open.
func (s *Store) surveyUplink(k, row []byte) error {
	if k[0] == kindStream {
		topic, st, err := readStream(k, row)
		if err == nil {
			s.lanes.streams[topic] = st
		}
		return err
	}
	m, err := readUplink(k, row)
	if err != nil {
		return err
	}
	id, _, err := parseUplinkKey(k)
	if err != nil {
		return err
	}
	l := s.lanes.all[id]
	if l == nil {
		l = &Lane{ID: id, First: m.ID, class: s.lanes.other}
		if id != sharedLane {
			l.Application, l.Topic = m.Application, m.Topic
		}
		s.lanes.all[id] = l
	}
	l.Last = m.ID
	l.Messages++
	l.Bytes += int64(len(k) + len(row))
	s.lanes.count(l.class, int64(len(k)+len(row)))
	return nil
}

const uplinkKeySize = 17

func lanePrefix(lane uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, uplinkKeySize), kindUplink), lane)
}

func uplinkKey(lane, id uint64) []byte { return binary.BigEndian.AppendUint64(lanePrefix(lane), id) }

func parseUplinkKey(k []byte) (lane, id uint64, err error) {
	if len(k) != uplinkKeySize || k[0] != kindUplink {
		return 0, 0, damaged("row %q is none of a message to the fleet", k)
	}
	return binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint64(k[9:]), nil
}

func readUplink(key, row []byte) (Message, error) {
	_, id, err := parseUplinkKey(key)
	if err != nil {
		return Message{}, err
	}
	v, err := unseal(key, row)
	if err != nil {
		return Message{}, err
	}
	return decodeMessage(id, v)
}

func streamKey(topic uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindStream}, topic)
}

func encodeStream(st stream) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, st.sequence), st.id)
}

func readStream(key, row []byte) (topic uint64, st stream, err error) {
	v, err := unseal(key, row)
	if err != nil {
		return 0, st, err
	}
	if len(key) != 9 || len(v) != 16 {
		return 0, st, damaged("row %q is no sequence", key)
	}
	return binary.BigEndian.Uint64(key[1:]), stream{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}, nil
}
