package readings

import "fmt"

// Manifest of an application whose ledger takes readings: "in/+" of QoS 2, of which "in/1" has two triggers and so goes through the inbox, "id/+" of
// QoS 1 with an id, and on the board's own bus its entries.
func Manifest(name, version string) string { return fmt.Sprintf(manifest, name, version) }

const manifest = `dunlin_manifest_version = 1
[application]
name = %q
version = %q
[[trigger.http]]
route = "/..."
component = "ledger"
[[trigger.mqtt]]
topic = "in/+"
qos = 2
component = "ledger"
[[trigger.mqtt]] # readings for two triggers go through the inbox
topic = "in/1"
qos = 2
component = "ledger"
[[trigger.mqtt]]
topic = "id/+"
qos = 1
message_id = "json:/id"
component = "ledger"
[[trigger.mqtt]]
topic = "ledger/+/+"
qos = 1
component = "ledger"
[component.ledger]
source = "ledger.wasm"
key_value_stores = ["default"]
publish = ["ledger/#"]
`
