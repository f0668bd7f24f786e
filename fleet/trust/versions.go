package trust

import "encoding/json"

// Version of a metadata role in s; 0 where there is none.
func (s State) Version(role Role) int64 {
	b := map[Role][]byte{Root: s.Root, Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets}[role]
	var m struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if len(b) == 0 || json.Unmarshal(b, &m) != nil {
		return 0
	}
	return m.Signed.Version
}
