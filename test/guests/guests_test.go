package guests

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"testing"
)

func committed() map[string][]byte {
	return map[string][]byte{
		"hello-http/hello-http.wasm":   HelloHTTP,
		"hello-cli/hello-cli.wasm":     HelloCLI,
		"counter/counter.wasm":         Counter,
		"coldroom/coldroom-v1.wasm":    Coldroom1,
		"coldroom/coldroom-v2.wasm":    Coldroom2,
		"hostile/hostile.wasm":         Hostile,
		"photos/photos.wasm":           Photos,
		"shelf/shelf.wasm":             Shelf,
		"spin/spin.wasm":               Spin,
		"ledger/ledger.wasm":           Ledger,
		"conformance/conformance.wasm": Conformance,
		"courier/courier.wasm":         Courier,
		"vectors/self-event.wasm":      SelfEvent,
		"vectors/smallest.wasm":        Smallest,
		"vectors/unknown-import.wasm":  UnknownImport,
		"vectors/no-handler.wasm":      NoHandler,
		"vectors/wasi-0.3.wasm":        WASI03,
		"vectors/core-module.wasm":     CoreModule,
	}
}

func TestBytesAreThoseOfTheDigestList(t *testing.T) {
	sums := map[string]string{}
	for line := range strings.Lines(Sums) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || sums[name] != "" {
			t.Fatalf("SHA256SUMS: bad line %q", line)
		}
		sums[name] = sum
	}
	files := committed()
	if got, want := slices.Sorted(maps.Keys(sums)), slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("SHA256SUMS lists %q, the package embeds %q", got, want)
	}
	total := 0
	for name, b := range files {
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); got != sums[name] {
			t.Errorf("%s is %s, SHA256SUMS says %s; run make guests", name, got, sums[name])
		}
		total += len(b)
	}
	// They are in every clone for ever.
	if limit := 2 << 20; total > limit {
		t.Errorf("the guests take %d bytes, more than %d", total, limit)
	}
}

func TestGuestsAreWhatTheirNamesSay(t *testing.T) {
	for name, b := range committed() {
		// The preamble: magic, then version 13 and layer 1 for a component, 1 and 0 for a core module.
		want := "\x00asm\x0d\x00\x01\x00"
		if strings.Contains(name, "core-module") {
			want = "\x00asm\x01\x00\x00\x00"
		}
		if !strings.HasPrefix(string(b), want) {
			t.Errorf("%s begins with %q, want %q", name, b[:min(8, len(b))], want)
		}
	}
}
