package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dunlin.dev/dunlin/agent/internal/trigger"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// serveDoctor answers `dunlin doctor`.
func (a *Agent) serveDoctor(w http.ResponseWriter, r *http.Request) {
	answer(w, a.examined(r.Context()))
}

// examined looks at everything that a board depends on, and names the way out of what is wrong.
func (a *Agent) examined(ctx context.Context) []wire.Finding {
	sources, err := a.check(ctx)
	all := []wire.Finding{found("agent", err, "version "+a.cfg.Version, "look into its log; systemd's watchdog starts it anew where there is one")}
	for _, s := range sources {
		all = append(all, a.sourceFinding(s))
	}
	all = append(all, a.busFinding(ctx), a.storeFinding(), a.diskFinding(), folderFinding(a.cfg.State), a.clockFinding(), a.fleetFinding())
	if a.manager != nil {
		all = append(all, a.trustFinding())
	}
	all = append(all, a.watchdogFinding())
	all = append(all, a.applicationFindings()...)
	return append(all, a.eventsFinding(), a.outboxFinding())
}

// found is a failure where there is an error.
func found(check string, err error, well, hint string) wire.Finding {
	if err != nil {
		return wire.Finding{Check: check, Level: wire.LevelFail, Detail: err.Error(), Hint: hint}
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: well}
}

func warned(check, detail, hint string) wire.Finding {
	return wire.Finding{Check: check, Level: wire.LevelWarn, Detail: detail, Hint: hint}
}

func (a *Agent) sourceFinding(s trigger.Status) wire.Finding {
	detail := string(s.Health)
	if s.Detail != "" {
		detail += ": " + s.Detail
	}
	off := s.Source == "http" && a.cfg.Listen == off || s.Source == "mqtt" && a.cfg.Bus.Listen == off && a.cfg.Bus.URL == ""
	if s.Health == trigger.Healthy || off {
		return wire.Finding{Check: s.Source, Level: wire.LevelOK, Detail: detail}
	}
	return wire.Finding{Check: s.Source, Level: wire.LevelFail, Detail: detail, Hint: "it is tried again; check the address in agent.toml, and who else listens there"}
}

// busFinding names what the board's broker may drop by limits of its own: that is outside what the agent can promise.
func (a *Agent) busFinding(ctx context.Context) wire.Finding {
	const check = "broker"
	switch {
	case a.cfg.Bus.URL != "":
	case a.cfg.Bus.Listen == off:
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: "none: bus.listen is off"}
	default:
		l := mqtttrigger.Limits{}.Complete()
		detail := fmt.Sprintf("the agent's own: for handlers it drops nothing of QoS 1 and 2, publishers wait; of QoS 0 the oldest of more than %d messages "+
			"for one trigger, %d bytes for all; for other subscribers it may drop what they are too slow to take; their sessions, and retained messages, end with the agent", l.QueueMessages, l.QueueBytes)
		if missed := a.bus.Counters().Missed; missed > 0 {
			return warned(check, fmt.Sprintf("%s; it has dropped %d messages so since it started", detail, missed),
				"see which subscriber on the bus is slow: handlers have missed none of QoS 1 and 2")
		}
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
	}
	facts, err := mqtttrigger.Survey(ctx, a.cfg.Bus.URL, a.now)
	if err != nil {
		return found(check, err, "", "check bus.url in agent.toml, and that the broker runs and lets this board in")
	}
	return brokerFinding(facts)
}

// brokerFinding is what is known of an outside broker's limits.
func brokerFinding(f mqtttrigger.Facts) wire.Finding {
	const check, loses = "broker", "what it drops by its own limits while this board is away or slow never reaches the board"
	dropped := ""
	if f.Dropped != "" && f.Dropped != "0" {
		dropped = fmt.Sprintf("; it has dropped %s messages since it started", f.Dropped)
	}
	switch {
	case f.Version == "":
		return warned(check, "it doesn't say what it is; "+loses+dropped, "look for its limits of queued messages and of a session's life, and whether it keeps both over a restart; "+
			"if it is Mosquitto, let the board read $SYS/broker/version: Mosquitto may repeat a message of QoS 2 after a broken connection, and the board looks out for that where it knows")
	case strings.HasPrefix(f.Version, "mosquitto"):
		return warned(check, f.Version+"; "+loses+dropped,
			"in mosquitto.conf, set max_queued_messages (1000 for each client by default) and max_queued_bytes to what the board may be away for, or to 0; persistence true keeps its queues over a restart, and persistent_client_expiration must be longer than the board is away")
	}
	return warned(check, f.Version+"; "+loses+dropped, "look for its limits of queued messages and of a session's life, and whether it keeps both over a restart")
}

func (a *Agent) storeFinding() wire.Finding {
	const check = "store"
	st, err := a.store.Stats()
	switch aside := a.store.Recovered(); {
	case err != nil:
		return found(check, err, "", "check the disk under "+a.cfg.State)
	case aside != "":
		return warned(check, "the database was damaged, and is kept as "+aside+"; the board began anew", "the card may be dying: check it and replace it")
	case st.Damaged > 0:
		return warned(check, fmt.Sprintf("%d rows of the database are damaged and left out", st.Damaged), "the card may be dying: check it and replace it")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: fmt.Sprintf("%.1f MB, of which %.1f MB hold nothing; schema %d", float64(st.Bytes)/1e6, float64(st.Free)/1e6, st.Schema)}
}

func (a *Agent) diskFinding() wire.Finding {
	const check = "disk"
	d, err := a.look()
	switch {
	case err != nil:
		return found(check, err, "", "check the file system of "+a.cfg.State)
	case d.Short:
		return wire.Finding{Check: check, Level: wire.LevelFail, Detail: "degraded: " + d.String(), Hint: "make room on the file system of " + a.cfg.State + ", or lower disk.keep_free in agent.toml"}
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: d.String()}
}

// folderFinding: what is in the folder runs as the agent.
func folderFinding(state string) wire.Finding {
	const check = "folder"
	info, err := os.Stat(state)
	if err != nil {
		return found(check, err, "", "")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return warned(check, fmt.Sprintf("others may enter %s (mode %#o): they could change the code that runs", state, mode), "chmod 700 "+state)
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: state}
}

func (a *Agent) clockFinding() wire.Finding {
	const check = "clock"
	now, quality := a.time()
	detail := fmt.Sprintf("%s, %s; never before %s", now.UTC().Format("2006-01-02 15:04:05 UTC"), quality, a.known().Floor().UTC().Format(time.DateOnly))
	if quality == wire.ClockSynced {
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
	}
	return warned(check, detail+": timers that make up for what was missed wait, and times of messages are guesses", "give the board a time service: systemd-timesyncd or chrony, or a clock chip")
}

func (a *Agent) fleetFinding() wire.Finding {
	const check = "fleet"
	if a.link == nil {
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: "none is configured: the board runs what it has"}
	}
	if _, up := a.link.Session(); !up {
		return wire.Finding{Check: check, Level: wire.LevelFail, Detail: "down: " + a.link.Detail(), Hint: "it is tried again, and the board runs on; check fleet.url, the network, and that the server runs"}
	}
	m := a.manager
	m.mu.Lock()
	frozen, refused := m.frozen, m.refused
	m.mu.Unlock()
	switch {
	case frozen:
		return wire.Finding{Check: check, Level: wire.LevelFail, Detail: "its metadata has expired: nothing is installed", Hint: "on the laptop with the keys, push again, which signs it anew"}
	case refused != nil:
		return wire.Finding{Check: check, Level: wire.LevelFail, Detail: "a desired state is refused: " + refused.Reason, Hint: "see `dunlin status` of this board"}
	case strings.HasPrefix(a.cfg.Fleet.URL, "mqtt://"):
		return warned(check, "connected to "+a.cfg.Fleet.URL+", without encryption: who is on the way reads what is sent, and the join token; nobody can have it run what isn't signed", "put TLS before the server and say mqtts:// in fleet.url")
	}
	expires := a.link.CertificateExpires()
	detail := fmt.Sprintf("connected to %s, whose certificate is good until %s", a.cfg.Fleet.URL, expires.UTC().Format(time.DateOnly))
	if expires.Sub(a.now()) < soon/2 {
		return warned(check, detail, "renew it on the server, or the board is cut off then; it runs on")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
}

// soon is how long before its end a signature is worth a word: whoever has its key may be away.
const soon = 30 * 24 * time.Hour

// trustFinding tells until when what the fleet has signed is good.
func (a *Agent) trustFinding() wire.Finding {
	const check = "trust"
	m := a.manager
	m.mu.Lock()
	state := m.state
	m.mu.Unlock()
	root, targets, timestamp := state.Expires(trust.Root), state.Expires(trust.Targets), state.Expires(trust.Timestamp)
	if targets.IsZero() {
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: "nothing that the fleet signed has come yet"}
	}
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	detail := fmt.Sprintf("the root is good until %s, the releases until %s, what the server vouched for last until %s", day(root), day(targets), day(timestamp))
	now := a.now()
	switch {
	case targets.Sub(now) < soon:
		return warned(check, detail, "on the laptop with the keys, push again, which signs the releases anew; what is installed runs on")
	case !root.IsZero() && root.Sub(now) < soon:
		return warned(check, detail, "sign a new root with the fleet's root key; what is installed runs on")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
}

func (a *Agent) watchdogFinding() wire.Finding {
	const check = "watchdog"
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: "systemd restarts the agent when it is stuck for " + every.String()}
	}
	return warned(check, "nobody restarts an agent that is stuck", "run it as the Debian package's unit does, with WatchdogSec=")
}

func (a *Agent) applicationFindings() []wire.Finding {
	records, err := a.store.List(installArea)
	if err != nil {
		return []wire.Finding{found("applications", err, "", "")}
	}
	var all []wire.Finding
	serves := map[string]bool{}
	for _, d := range a.apps.list() {
		serves[d.manifest.Application] = true
		all = append(all, wire.Finding{Check: "application", Level: wire.LevelOK, Detail: d.manifest.Application + " " + d.manifest.Version + " serves"})
	}
	for key := range records {
		if app := key[len(installArea):]; !serves[app] {
			all = append(all, wire.Finding{Check: "application", Level: wire.LevelFail, Detail: app + " is installed and does not serve", Hint: "the log says why; it is tried again"})
		}
	}
	return all
}

func (a *Agent) eventsFinding() wire.Finding {
	const check = "events"
	c := a.inbox.Counts()
	if c.Dead > 0 || c.DeadDropped > 0 {
		return warned(check, fmt.Sprintf("%d events wait, %d were given up and wait to be looked at, %d of those before were dropped", c.Waiting, c.Dead, c.DeadDropped), "see `dunlin events`: retry or drop them")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: fmt.Sprintf("%d wait, none was given up", c.Waiting)}
}

func (a *Agent) outboxFinding() wire.Finding {
	const check = "outbox"
	st := a.store.UplinkStats()
	detail := fmt.Sprintf("%d messages wait (%.1f MB)", st.Messages, float64(st.Bytes)/1e6)
	var lost uint64
	for _, n := range st.Dropped {
		lost += n
	}
	if lost > 0 {
		return warned(check, fmt.Sprintf("%s, %d were dropped since the agent started: %v", detail, lost, st.Dropped), "give the outbox more room ([uplink] of agent.toml), or important topics a priority ([[uplink]] of the manifest)")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
}
