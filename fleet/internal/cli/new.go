package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"dunlin.dev/dunlin/fleet/internal/scaffold"
	"dunlin.dev/dunlin/fleet/wire"
)

var newProject = Command{
	Name:  "new",
	Short: "make the project of a new handler from a template",
	Help: `Usage:
  dunlin new [flags] DIR
  dunlin new [--json]

Makes a project in a new or empty folder: source, manifest, build recipe and WIT, for "dunlin check" and "dunlin up".
Without a folder it lists the templates.

Flags:
  --lang LANGUAGE      the list says which (default js)
  --trigger TRIGGER    what calls the handler: http, mqtt or timer (default http)
  --engine ENGINE      of js and ts: starlingmonkey (the whole web API; default) or quickjs (a tenth of the size)
  --name NAME          the application's name (default: the folder's)
  --json               print the list as JSON

Example:
  dunlin new --lang rust --trigger mqtt greenhouse
`,
	Run: runNew,
}

func runNew(_ context.Context, env *Env, args []string) error {
	f := flag.NewFlagSet("new", flag.ContinueOnError)
	language := f.String("lang", "js", "")
	trigger := f.String("trigger", "http", "")
	engine := f.String("engine", "", "")
	name := f.String("name", "", "")
	asJSON := f.Bool("json", false, "")
	rest, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		if f.NFlag() > 0 && !(*asJSON && f.NFlag() == 1) {
			return Hint(Usage("new wants the folder to make"), "dunlin new --lang rust --trigger mqtt greenhouse")
		}
		return listTemplates(env, *asJSON)
	}
	if err := extra(rest[1:]); err != nil {
		return err
	}
	dir := rest[0]
	if *name == "" {
		whole, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("find folder: %w", err)
		}
		*name = filepath.Base(whole)
	}
	if err := wire.CheckName("application", *name); err != nil {
		return Hint(Usage("%v", err), "--name gives the application another name than the folder's")
	}
	t, err := scaffold.Find(*language, *engine)
	if err == nil {
		err = t.Create(dir, *name, *trigger)
	}
	switch {
	case errors.Is(err, scaffold.ErrUnknown):
		return Hint(Usage("%v", err), "dunlin new lists the templates")
	case errors.Is(err, scaffold.ErrNotEmpty):
		return Hint(err, "name a new or an empty folder; nothing was changed")
	case err != nil:
		return err
	}
	fmt.Fprintf(env.Stdout, "made %s: a handler in %s for %s\n\n", dir, *language, *trigger)
	for _, line := range slices.Concat([]string{"cd " + dir}, t.Build, []string{"dunlin up"}) {
		fmt.Fprintf(env.Stdout, "  %s\n", line)
	}
	_, err = fmt.Fprintf(env.Stdout, "\nThe build needs %s.\n", t.Needs)
	return err
}

func listTemplates(env *Env, asJSON bool) error {
	all := scaffold.All()
	if asJSON {
		return printJSON(env.Stdout, all)
	}
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANGUAGE\tENGINE\tTRIGGERS\tNEEDS")
	for _, a := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", a.Language, dash(a.Engine), strings.Join(a.Triggers, ", "), a.Needs)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.Stdout, "\ndunlin new --lang LANGUAGE --trigger TRIGGER DIR makes a project.")
	return err
}
