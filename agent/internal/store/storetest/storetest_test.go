package storetest

import "testing"

func TestAStoreOpensAgainInTheSameDirectory(t *testing.T) {
	dir := t.TempDir()
	s := OpenIn(t, dir)
	if err := s.Put(map[string][]byte{"a/b": []byte("c")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v, ok, err := OpenIn(t, dir).Get("a/b")
	if err != nil || !ok || string(v) != "c" {
		t.Fatalf("got %q, %v, %v", v, ok, err)
	}
}
