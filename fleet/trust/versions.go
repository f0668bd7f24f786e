package trust

import (
	"encoding/json"
	"time"
)

// signed is what every metadata file says of itself.
type signed struct {
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
}

// signed part of a role's metadata in s; zero where there is none.
func (s State) signed(role Role) signed {
	b := map[Role][]byte{Root: s.Root, Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets}[role]
	var m struct {
		Signed signed `json:"signed"`
	}
	if len(b) == 0 || json.Unmarshal(b, &m) != nil {
		return signed{}
	}
	return m.Signed
}

// Version of a metadata role in s; 0 where there is none.
func (s State) Version(role Role) int64 { return s.signed(role).Version }

// Expires is when a metadata role in s does; zero where there is none.
func (s State) Expires(role Role) time.Time { return s.signed(role).Expires }
