package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"dunlin.dev/dunlin/agent/internal/space"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// ErrNoBoard says that there is no agent's folder to look at.
var ErrNoBoard = errors.New("no agent has run there")

// ExamineStopped looks at a board whose agent doesn't run: at what is there, and what its start would meet. It changes nothing. config is the
// path of an agent.toml; "": there is none, and state is the folder. ErrNoBoard where there is neither.
func ExamineStopped(state, config string) ([]wire.Finding, error) {
	var all []wire.Finding
	cfg := Config{State: state}
	if err := cfg.Disk.complete(); err != nil {
		return nil, err
	}
	if config != "" {
		var err error
		cfg, err = LoadConfig(config)
		all = append(all, found("config", err, config, "correct it; every key is in the README"))
		if err != nil && cfg.State == "" {
			return all, nil
		}
		state = cfg.State
	}
	if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) && config == "" {
		return nil, fmt.Errorf("examine %s: %w", state, ErrNoBoard)
	}
	all = append([]wire.Finding{{Check: "agent", Level: wire.LevelFail, Detail: "it does not run: nobody listens on " + filepath.Join(state, ControlSocket),
		Hint: "start it, as by `systemctl start dunlin-agent`; `journalctl -u dunlin-agent` has its last words"}}, all...)
	all = append(all, stoppedStore(state), stoppedDisk(state, cfg.Disk.keep), folderFinding(state))
	if config != "" {
		all = append(all, address("http", "listen", cfg.Listen), address("mqtt", "bus.listen", cfg.Bus.Listen))
		if cfg.Fleet != nil {
			all = append(all, file("fleet", "fleet.root", cfg.Fleet.Root), file("fleet", "fleet.token_file", cfg.Fleet.TokenFile))
		}
	}
	return all, nil
}

func stoppedStore(state string) wire.Finding {
	const check = "store"
	e, err := store.Examine(state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: "none yet: the first start makes it"}
	case errors.Is(err, store.ErrInUse):
		return found(check, err, "", "that process does not answer: stop it, or wait for its watchdog")
	case errors.Is(err, store.ErrDamaged):
		return found(check, err, "", "the next start sets it aside and begins anew, and the fleet sends what the board should run; keep a copy first if what handlers stored matters; the card may be dying")
	case err != nil:
		return found(check, err, "", "check the disk under "+state)
	}
	detail := fmt.Sprintf("%.1f MB, sound; schema %d; %d groups in the journal", float64(e.Bytes)/1e6, e.Schema, e.Frames)
	if len(e.Aside) > 0 {
		return warned(check, detail+"; damaged files were set aside: "+strings.Join(e.Aside, ", "), "the card may be dying: check it and replace it")
	}
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: detail}
}

func stoppedDisk(state string, keep space.Keep) wire.Finding {
	room, err := roomUnder(state)
	if err != nil {
		return found("disk", err, "", "make the folder, or mount what it is on")
	}
	d := space.Disk{Keep: keep}
	d.Look(room)
	if d.Short {
		return wire.Finding{Check: "disk", Level: wire.LevelFail, Detail: d.String(), Hint: "make room on the file system of " + state}
	}
	return wire.Finding{Check: "disk", Level: wire.LevelOK, Detail: d.String()}
}

// address that a start would listen on.
func address(check, key, addr string) wire.Finding {
	if addr == off || addr == "" {
		return wire.Finding{Check: check, Level: wire.LevelOK, Detail: key + " is off"}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return found(check, fmt.Errorf("%s: %w", key, err), "", "stop what listens there (`ss -ltnp` names it), or give the agent another address")
	}
	l.Close()
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: addr + " is free"}
}

// file that a start would read.
func file(check, key, path string) wire.Finding {
	f, err := os.Open(path)
	if err != nil {
		return found(check, fmt.Errorf("%s: %w", key, err), "", "root.json is the one that `dunlin keys init` wrote, join.token the server's")
	}
	f.Close()
	return wire.Finding{Check: check, Level: wire.LevelOK, Detail: key + " is " + path}
}
