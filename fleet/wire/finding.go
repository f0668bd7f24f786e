package wire

// Finding is one thing that `dunlin doctor` has looked at on a board.
type Finding struct {
	Check  string `json:"check"` // what was looked at, one word
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"` // the way out
}

// Level of a Finding.
type Level string

// The levels: all is well; something that will cost one day, or is outside what is promised; something that doesn't work.
const (
	LevelOK   Level = "ok"
	LevelWarn Level = "warn"
	LevelFail Level = "fail"
)
