package scaffold

import (
	"testing"

	"dunlin.dev/dunlin/fleet/manifest"
)

func TestEveryTemplateHasAManifestThatADeviceAccepts(t *testing.T) {
	for _, tm := range All() {
		for _, trigger := range tm.Triggers {
			files, err := tm.Files("greenhouse", trigger)
			if err != nil {
				t.Fatalf("%s %s %s: %v", tm.Language, tm.Engine, trigger, err)
			}
			r, err := manifest.Parse("dunlin.toml", files["dunlin.toml"])
			if err != nil {
				t.Errorf("%s %s %s: %v", tm.Language, tm.Engine, trigger, err)
				continue
			}
			if got := r.Components["handler"].Source; got != tm.Source {
				t.Errorf("%s %s %s: the manifest has the component %q, the build makes %q", tm.Language, tm.Engine, trigger, got, tm.Source)
			}
		}
	}
}
