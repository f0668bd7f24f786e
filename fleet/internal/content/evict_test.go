package content

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/internal/content/contenttest"
	"dunlin.dev/dunlin/fleet/wire"
)

// shelf is encodings with a clock that the test turns.
type shelf struct {
	*encodings
	t     *testing.T
	blobs *Blobs
	at    time.Time
}

func newShelf(t *testing.T) *shelf {
	e, blobs := open(t)
	s := &shelf{encodings: e, t: t, blobs: blobs, at: time.Now()}
	e.now = func() time.Time { return s.at }
	return s
}

// zstd gives the path of a blob's encoding, made if it isn't there.
func (s *shelf) zstd(d wire.Digest) string {
	s.t.Helper()
	path, err := s.ensure(s.t.Context(), wire.EncodingZstd, d, wire.Digest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestEncodingsStayWithinTheirLimitOldestUseFirst(t *testing.T) {
	s := newShelf(t)
	var digests []wire.Digest
	var paths []string
	var bytes []int64
	for i := range 4 {
		d := put(t, s.blobs, contenttest.Program(20_000, uint64(i+1)))
		digests = append(digests, d)
	}
	for _, d := range digests[:3] {
		paths = append(paths, s.zstd(d))
		n, err := size(paths[len(paths)-1], d)
		if err != nil {
			t.Fatal(err)
		}
		bytes = append(bytes, n)
		s.at = s.at.Add(time.Hour)
	}
	s.limit = bytes[0] + bytes[1] + bytes[2] + bytes[0]/2 // the fourth is one too many
	was := read(t, paths[0])
	s.zstd(digests[0])
	s.at = s.at.Add(time.Hour)
	paths = append(paths, s.zstd(digests[3]))
	total := int64(0)
	for i, want := range []bool{true, false, true, true} {
		if exists(paths[i]) != want {
			t.Errorf("encoding %d is there: %t; the second's last use is the oldest", i, !want)
		}
		if n, err := size(paths[i], digests[i]); err == nil {
			total += n
		}
	}
	if total > s.limit {
		t.Errorf("%d bytes are kept, the limit is %d", total, s.limit)
	}
	// What was evicted comes again, the same: a board in the middle of it goes on.
	s.at, s.limit = s.at.Add(time.Hour), 0
	if s.zstd(digests[1]); exists(paths[0]) || !exists(paths[1]) {
		t.Error("the only one that is asked for isn't the only one there")
	}
	if got := read(t, s.zstd(digests[0])); string(got) != string(was) {
		t.Error("it is another encoding the second time")
	}
}

func TestAnEncodingThatIsBeingServedIsNeverEvicted(t *testing.T) {
	s := newShelf(t)
	s.limit = 1
	first := put(t, s.blobs, contenttest.Program(20_000, 1))
	path := s.zstd(first)
	for i := range 5 {
		s.at = s.at.Add(servedFor - time.Second)
		s.zstd(first) // the board asks for its next blocks
		s.zstd(put(t, s.blobs, contenttest.Program(20_000, uint64(i+2))))
		if !exists(path) {
			t.Fatal("it was evicted while it was being served")
		}
	}
	s.at = s.at.Add(servedFor)
	s.zstd(put(t, s.blobs, contenttest.Program(20_000, 9)))
	if exists(path) {
		t.Error("it stays when nobody asks for it any more")
	}
}

func TestAStartRemovesHalvesAndKeepsWhatWasMade(t *testing.T) {
	dir := t.TempDir()
	blobs, err := OpenBlobs(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := put(t, blobs, contenttest.Program(20_000, 1))
	ctx, cancel := context.WithCancel(t.Context())
	first, err := openEncodings(ctx, dir, blobs)
	if err != nil {
		t.Fatal(err)
	}
	path, err := first.ensure(ctx, wire.EncodingZstd, d, wire.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	first.group.Wait()
	half := filepath.Join(dir, "encodings", making+"123")
	if err := os.WriteFile(half, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := openEncodings(t.Context(), dir, blobs)
	if err != nil {
		t.Fatal(err)
	}
	if exists(half) || !exists(path) {
		t.Errorf("the half is there: %t, the whole: %t", exists(half), exists(path))
	}
	if k := second.kept[path]; k == nil || k.bytes == 0 {
		t.Errorf("it is counted as %+v", k)
	}
}
