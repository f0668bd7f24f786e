package host

import (
	"errors"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// refuse makes functions of one resource that answer every call with the same error case.
func refuse(answer engine.Val, funcs map[string]fn, resource string, methods map[string][]engine.Kind) {
	for name, params := range methods {
		funcs["[method]"+resource+"."+name] = f(func(*Guest, []engine.Val) (engine.Val, error) {
			return answer, nil
		}, append([]engine.Kind{kHandle}, params...)...)
	}
}

// unreachable is for functions of resources of which the host never makes one, where the text has no error to answer with.
func unreachable(*Guest, []engine.Val) (engine.Val, error) {
	return none, errors.New("called on a handle that was never given out")
}
