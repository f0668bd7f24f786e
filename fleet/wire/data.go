package wire

// Data is one message that a handler published on "uplink:<topic>".
type Data struct {
	ID          uint64 // grows for a board over its life; the fleet drops repeats by (device, ID)
	At          int64  // Unix milliseconds by the board's clock
	Clock       ClockQuality
	Application string
	Topic       string // without "uplink:"
	Payload     []byte
}
