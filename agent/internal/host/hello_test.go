package host

import (
	"testing"

	"dunlin.dev/dunlin/test/guests"
)

func TestHelloWorldIsServed(t *testing.T) {
	c := compile(t, guests.HelloHTTP)
	if err := newHost(t).Check(c, "hello", Grants{}); err != nil {
		t.Fatal(err)
	}
	a, err := serve(t, c, Limits{}, &Env{}, request("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	if a.status != 200 || a.body.String() != "Hello World!" || a.finished != 1 {
		t.Errorf("got status %d, body %q, finished %d times", a.status, a.body.String(), a.finished)
	}
	if got := a.header.Get("Content-Type"); got != "text/plain" {
		t.Errorf("content-type is %q", got)
	}
}
