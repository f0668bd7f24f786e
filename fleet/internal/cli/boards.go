package cli

import (
	"flag"
	"fmt"
	"strings"

	"dunlin.dev/dunlin/fleet/internal/model"
)

// boardFlags say which boards a command is for.
type boardFlags struct {
	device string
	labels labelFlag
	all    bool
}

func (b *boardFlags) flags(f *flag.FlagSet) {
	b.labels = labelFlag{}
	f.StringVar(&b.device, "device", "", "")
	f.Var(b.labels, "label", "")
	f.BoolVar(&b.all, "all", false, "")
}

// given says whether any was named.
func (b *boardFlags) given() bool { return b.device != "" || b.several() }

// several says that it may be more than one.
func (b *boardFlags) several() bool { return b.all || len(b.labels) > 0 }

func (b *boardFlags) selector() (model.Selector, error) {
	s := model.Selector{Device: b.device, Labels: b.labels, All: b.all}
	if !b.given() {
		return s, Hint(Usage("which boards?"), "say --device NAME, --label KEY=VALUE or --all")
	}
	if err := s.Check(); err != nil {
		return s, Usage("%v", err)
	}
	return s, nil
}

// labelFlag collects KEY=VALUE.
type labelFlag map[string]string

func (l labelFlag) String() string { return labels(l) }

func (l labelFlag) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("want KEY=VALUE")
	}
	l[k] = v
	return nil
}
