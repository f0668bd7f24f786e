# `make` lists the targets. Everything that a target makes is in bin/, dist/ or .tools/, which git ignores.

# Tools too large to be dependencies of the module; small ones are `tool` lines in go.mod.
GOLANGCI_LINT_VERSION := v2.15.0
GORELEASER_VERSION    := v2.15.2

# What bench-peers measures beside: WASMTIME=/path/to/wasmtime takes one that is there already.
WASMTIME    ?= .tools/wasmtime-44.0.3/bin/wasmtime
JS_HANDLERS := .tools/seed-js/seed.wasm .tools/seed-js/seed-changed.wasm

PROGRAMS := ./agent/cmd/dunlin-agent ./fleet/cmd/dunlin ./fleet/cmd/dunlin-fleet
ARCHES   := amd64 arm64

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The commit's time, not this moment's: the same commit gives the same bytes.
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT)
BUILD   := $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# Packages without cgo and without real processes, where the race detector is cheap.
RACE := ./fleet/wire/... ./fleet/trust/... ./fleet/internal/... ./agent/internal/link/... ./agent/internal/reconcile/... \
        ./agent/internal/store/... ./agent/internal/trigger/...

.DEFAULT_GOAL := help
.PHONY: help
help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- build -----------------------------------------------------------------------------------------------------------

.PHONY: toolchain
toolchain:
	@command -v git >/dev/null || { echo 'git is missing: apt-get install git'; exit 1; }
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install Go 1.26 or newer from go.dev/dl'; exit 1; }
	@$(GO) version >/dev/null || exit 1
	@command -v $(firstword $(CC)) >/dev/null || { echo 'a C compiler is missing: apt-get install gcc libc6-dev'; exit 1; }

.PHONY: build
build: toolchain ## build the programs for this machine into bin/
	@$(BUILD) -o bin/ $(PROGRAMS)

.PHONY: cross
cross: $(ARCHES:%=cross-%) ## build the programs for every target into bin/linux-<arch>/

.PHONY: $(ARCHES:%=cross-%)
$(ARCHES:%=cross-%): cross-%: toolchain
	@GO='$(GO)' cross/build $* bin/linux-$* '$(LDFLAGS)' $(PROGRAMS)

# --- test ------------------------------------------------------------------------------------------------------------

# A test whose outside tool is absent leaves a line in the file (test/need); the lines are shown below the results.
.PHONY: test
test: build ## run the tests and the stories over the real programs
	@absent=$$(mktemp) && status=0; \
	DUNLIN_ABSENT=$$absent DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) test -timeout 20m ./... || status=1; \
	sort -u $$absent; rm -f $$absent; exit $$status

.PHONY: check
check: clean-tree lint check-race check-engine check-modules ## run the whole gate: format, lint, race, memory, modules, clean tree
	@$(MAKE) --no-print-directory clean-tree

.PHONY: lint
lint: toolchain .tools/golangci-lint-$(GOLANGCI_LINT_VERSION) ## check format, vet and lint
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 -r gofmt -l); \
	[ -z "$$unformatted" ] || { echo "not formatted, run gofmt -w on: $$unformatted"; exit 1; }
	$(GO) vet ./...
	.tools/golangci-lint-$(GOLANGCI_LINT_VERSION) run

# Short: what runs as children under strace or kill shows no race here, and takes ten times as long.
.PHONY: check-race
check-race: toolchain
	$(GO) test -race -short $(RACE)
	$(GO) test -race -run TestWASIConformance ./agent/internal/host

# The engine's debug build collects garbage at each use of a handle, and cgocheck2 watches every write of a pointer: a
# lifetime mistake in the binding crashes here instead of on a board.
.PHONY: check-engine
check-engine: toolchain
	GOGC=1 GOEXPERIMENT=cgocheck2 $(GO) test -tags dunlindebug ./agent/internal/engine/...

.PHONY: check-modules
check-modules: toolchain
	$(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: network
network: build ## a bad network for FOR (1m) between board, sensors and fleet: nothing lost, nothing doubled; SEED=n repeats a run
	@DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) run ./test/network -for $(or $(FOR),1m) $(if $(SEED),-seed $(SEED))

# One after the other, each with both cores. What is found lies in the package's testdata/fuzz: commit it with the fix.
.PHONY: fuzz
fuzz: toolchain ## fuzz each decoder for FUZZTIME (10s)
	@$(GO) test -list '^Fuzz' ./... | awk '/^Fuzz/ { names[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, names[i]; n = 0 }' | \
	while read -r package name; do \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime '$(or $(FUZZTIME),10s)' -fuzzminimizetime 1x "$$package" </dev/null || exit 1; \
	done

.PHONY: clean-tree
clean-tree:
	@[ -z "$$(git status --porcelain)" ] || { echo 'the tree is not clean; commit or remove:'; git status --short; exit 1; }

.PHONY: bench
bench: build ## measure; prints BENCH <name> <value> <unit>; ONLY=idle,socket measures these stages
	@DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) run ./test/bench $(if $(ONLY),-only '$(ONLY)')

# Needs the JS handlers too: the comparison is half of theirs.
.PHONY: bench-peers
bench-peers: build $(WASMTIME) $(JS_HANDLERS) ## measure beside `wasmtime serve` (built at the first run: ten minutes)
	@DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) run ./test/bench -js .tools/seed-js -wasmtime '$(abspath $(WASMTIME))'

.PHONY: bench-languages
bench-languages: templates ## measure the templates' handlers, language by language
	@DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) run ./test/bench -languages '$(TOOLCHAINS)/built'

.PHONY: crash
crash: toolchain ## kill the agent CYCLES times (1000) while sensors publish: nothing lost, nothing doubled; SEED=n repeats a run
	@$(GO) run ./test/crash -cycles $(or $(CYCLES),1000) $(if $(SEED),-seed $(SEED))

.PHONY: soak
soak: toolchain ## an agent at full rate FOR (10m): nothing lost, nothing doubled, nothing grows
	@$(GO) run ./test/soak -for $(or $(FOR),10m)

# One after the other: builds in two languages at once take the memory of both.
TOOLCHAINS := $(CURDIR)/.tools/toolchains
.PHONY: templates
templates: build ## build each template of `dunlin new` with its language's tools, and run it (first: ten minutes)
	@test/guests/build.sh toolchains '$(TOOLCHAINS)/bin'
	@DUNLIN_TOOLCHAINS='$(TOOLCHAINS)' DUNLIN_BIN_DIR='$(CURDIR)/bin' $(GO) test -count=1 -timeout 30m -parallel 1 -v -run TestEachTemplate ./test/scripts

.PHONY: demo
demo: build ## show the whole of it on this machine in a minute; KEEP=1 leaves it running
	@KEEP='$(KEEP)' test/demo/run

# --- release ---------------------------------------------------------------------------------------------------------

.PHONY: guests
guests: ## rebuild the guest components of the tests from their sources
	@test/guests/build.sh

# One after the other: they share the tools that are fetched for the first.
.PHONY: seed-js
seed-js: $(JS_HANDLERS) ## build the JS handlers of the tests, which are too large to commit
$(JS_HANDLERS): .tools/seed-js/%.wasm: test/guests/seed-js/%.js \
		$(wildcard test/guests/build.sh test/guests/seed-js/*.* wit/deps/*@0.2.12/*.wit)
	@test/guests/build.sh seed-js $@ $<
.tools/seed-js/seed-changed.wasm: | .tools/seed-js/seed.wasm

.PHONY: packages
packages: toolchain .tools/goreleaser-$(GORELEASER_VERSION) ## make archives and Debian packages in dist/, and check them
	.tools/goreleaser-$(GORELEASER_VERSION) check
	.tools/goreleaser-$(GORELEASER_VERSION) release --snapshot --clean
	DUNLIN_DIST='$(CURDIR)/dist' $(GO) test -count=1 ./cross

.PHONY: clean
clean: ## remove what the targets made, except the tools in .tools/, which take minutes
	rm -rf bin dist

# --- tools -----------------------------------------------------------------------------------------------------------

.tools/golangci-lint-$(GOLANGCI_LINT_VERSION):
	$(call install,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION),$@)

.tools/goreleaser-$(GORELEASER_VERSION):
	$(call install,goreleaser,github.com/goreleaser/goreleaser/v2@$(GORELEASER_VERSION),$@)

.tools/wasmtime-44.0.3/bin/wasmtime:
	@echo 'building wasmtime-cli'
	@test/guests/build.sh wasmtime '$(CURDIR)/.tools/wasmtime-44.0.3'

# install NAME, MODULE@VERSION, TARGET: the version is in the file's name, so that a new pin is a new build.
define install
	@echo 'building $(2)'
	@mkdir -p .tools && GOBIN='$(CURDIR)/.tools' $(GO) install $(2) && mv .tools/$(1) $(3)
endef
