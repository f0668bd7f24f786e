package fleet

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dunlin.dev/dunlin/fleet/internal/store"
)

// Files of Config.Data that people read, each mode 0600.
const (
	AdminTokenFile = "admin.token" // for the HTTP API: who has it may do everything
	JoinTokenFile  = "join.token"  // boards' MQTT password
)

// minSecret is what a token that somebody wrote by hand must have, in bytes.
const minSecret = 16

// secret reads a token, or makes one of 256 bits.
func secret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newSecret(path)
	}
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("read token %s: others may read it (mode %#o): chmod 600 it", path, fi.Mode().Perm())
	}
	s := strings.TrimSpace(string(b))
	if len(s) < minSecret {
		return "", fmt.Errorf("read token %s: %d bytes, want at least %d: delete the file for a new one", path, len(s), minSecret)
	}
	return s, nil
}

func newSecret(path string) (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	s := base64.RawURLEncoding.EncodeToString(b)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(s+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	if err := errors.Join(os.Rename(tmp, path), store.SyncDir(filepath.Dir(path))); err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	return s, nil
}
