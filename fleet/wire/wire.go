// Package wire is what boards and the fleet say to each other: topics as a type, messages, their limits, and one
// protocol version. It is pure: no I/O, no clock, no policy about who may be believed (that is package trust).
//
// JSON messages are canonical: a decoder takes exactly the bytes that the encoder would give for the same value, so a
// digest or a signature covers one byte string and a field that one side doesn't know is never dropped in silence.
// Content travels in binary frames (Frame), so nothing is base64.
package wire

// Version is the protocol version that this build speaks. Decoders refuse others, so a fleet server is upgraded before
// its boards; a server that speaks several answers each board in the version of its hello.
//
// History:
//
//	1  2026-11-23  first version
const Version = 1

// Limits. Both sides hold them: a sender never exceeds them, a receiver refuses what does.
const (
	MaxMessageBytes  = 128 << 10 // one MQTT payload, whatever the channel
	MaxDesiredBytes  = 32 << 10  // one desired payload, before its envelope
	MaxDoBytes       = 4 << 10   // one request to a board, before its envelope
	MaxOperations    = 64        // that a board knows
	MaxArguments     = 16        // of a request to a board
	MaxManifestBytes = 256 << 10 // one release manifest
	MaxBlobBytes     = 256 << 20 // one component
	MaxNameBytes     = 64        // fleet, device, application, component
	MaxTriggerID     = 96        // bytes of a trigger's id
	MaxErrorBytes    = 1 << 10   // an error's text in a report or an answer
	MaxTopicBytes    = 512       // an MQTT topic or filter in a release or an uplink
	MaxLabels        = 32        // labels of one board
	MaxLabelBytes    = 128       // one label's value
	MaxHave          = 256       // digests that a board names as possible bases
	MaxReleases      = 64        // applications on one board
	MaxComponents    = 64        // components of one release
	MaxTriggers      = 256       // triggers of one release
	MaxLogLines      = 256       // lines in one log message

	DefaultBlockBytes = 64 << 10 // one block of an encoding
	MinBlockBytes     = 1 << 10
	MaxBlockBytes     = 64 << 10
	MaxWindow         = 64   // blocks that one request may ask for
	MaxParts          = 1024 // frames of one metadata, manifest or offer answer
)
