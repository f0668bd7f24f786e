package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	bolt "go.etcd.io/bbolt"
)

func TestABlobIsKeptOnlyWhenSizeAndDigestMatch(t *testing.T) {
	s := newStore(t)
	r := seed(t)
	digest, data := randomBlob(r, 3*commitChunks*chunkSize/2)
	size := int64(len(data))
	broken := errors.New("link lost")
	for name, put := range map[string]func() error{
		"another digest": func() error { return s.PutBlob("sha256:"+strings.Repeat("0", 64), size, bytes.NewReader(data)) },
		"too short":      func() error { return s.PutBlob(digest, size+1, bytes.NewReader(data)) },
		"too long":       func() error { return s.PutBlob(digest, size-1, bytes.NewReader(data)) },
		"reader fails": func() error {
			return s.PutBlob(digest, size, io.MultiReader(bytes.NewReader(data[:size-9]), iotest.ErrReader(broken)))
		},
		"over the limit": func() error { return s.PutBlob(digest, MaxBlob+1, bytes.NewReader(data)) },
		"negative":       func() error { return s.PutBlob(digest, -1, bytes.NewReader(data)) },
		"malformed":      func() error { return s.PutBlob("sha256:xyz", size, bytes.NewReader(data)) },
		"uppercase":      func() error { return s.PutBlob("sha256:"+strings.ToUpper(digest[7:]), size, bytes.NewReader(data)) },
		"another hash":   func() error { return s.PutBlob("md5:"+digest[7:], size, bytes.NewReader(data)) },
	} {
		if err := put(); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if all, err := s.Blobs(); len(all) != 0 || err != nil {
		t.Errorf("blobs %q, %v", all, err)
	}
	must(t, s.view(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketStaging).Cursor().First(); k != nil {
			t.Error("refused blobs are still staged")
		}
		return nil
	}))
	var wg sync.WaitGroup
	for range 3 { // at the same time
		wg.Go(func() {
			if err := s.PutBlob(digest, size, iotest.HalfReader(bytes.NewReader(data))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, s.PutBlob(digest, size, iotest.ErrReader(broken))) // it is there
	if got, ok, err := s.Blob(digest); !bytes.Equal(got, data) || !ok || err != nil {
		t.Errorf("got %d bytes, %v, %v", len(got), ok, err)
	}
	empty, _ := randomBlob(r, 0)
	putBlob(t, s, empty, nil)
	if got, ok, err := s.Blob(empty); len(got) != 0 || !ok || err != nil {
		t.Errorf("empty blob: %d bytes, %v, %v", len(got), ok, err)
	}
	must(t, s.DeleteBlob(digest))
	must(t, s.DeleteBlob(digest))
	if all, err := s.Blobs(); !slices.Equal(all, []string{empty}) || err != nil {
		t.Errorf("blobs %q, %v", all, err)
	}
}

func TestBlobsOfTheLargestSizeFit(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 64 MB")
	}
	s := newStore(t)
	digest, data := randomBlob(seed(t), MaxBlob)
	putBlob(t, s, digest, data)
	if got, ok, err := s.Blob(digest); !bytes.Equal(got, data) || !ok || err != nil {
		t.Errorf("got %d bytes, %v, %v", len(got), ok, err)
	}
	before, err := s.Stats()
	must(t, err)
	must(t, s.DeleteBlob(digest))
	digest, data = randomBlob(seed(t), MaxBlob)
	putBlob(t, s, digest, data)
	after, err := s.Stats()
	must(t, err)
	if after.Bytes > before.Bytes+before.Bytes/10 {
		t.Errorf("the file grew from %d to %d bytes: freed pages are not used again", before.Bytes, after.Bytes)
	}
}

func TestADamagedBlobIsRemovedSoThatItCanBeFetchedAgain(t *testing.T) {
	s := newStore(t)
	digest, data := randomBlob(seed(t), 10000)
	putBlob(t, s, digest, data)
	raw, err := os.ReadFile(s.Path())
	must(t, err)
	f, err := os.OpenFile(s.Path(), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for at := 0; ; at++ { // every copy in the file, also those in pages that are free
		i := bytes.Index(raw[at:], data[5000:5100])
		if i < 0 {
			break
		}
		at += i
		_, err = f.WriteAt([]byte{data[5000] ^ 1}, int64(at))
		must(t, err)
	}
	if _, _, err := s.Blob(digest); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), digest) {
		t.Fatalf("got %v, want ErrDamaged with the digest", err)
	}
	if has, err := s.HasBlob(digest); has || err != nil {
		t.Fatalf("the damaged blob is still there: %v, %v", has, err)
	}
	putBlob(t, s, digest, data)
	if got, ok, err := s.Blob(digest); !bytes.Equal(got, data) || !ok || err != nil {
		t.Errorf("fetched again: %d bytes, %v, %v", len(got), ok, err)
	}
}

func TestATransferGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	target, _ := randomBlob(seed(t), 1)
	if err := s.PutBlocks(target, map[int][]byte{0: []byte("a")}); !errors.Is(err, ErrNoTransfer) {
		t.Errorf("a block before the transfer: got %v, want ErrNoTransfer", err)
	}
	must(t, s.BeginTransfer(target, []byte("offer")))
	must(t, s.PutBlocks(target, map[int][]byte{0: []byte("aa"), 3: []byte("d")}))
	must(t, s.Close())
	s = open(t, dir)
	must(t, s.BeginTransfer(target, []byte("offer")))
	tr, ok, err := s.Transfer(target)
	if !ok || err != nil || string(tr.Meta) != "offer" || !slices.Equal(tr.Have, []int{0, 3}) {
		t.Fatalf("got %+v, %v, %v", tr, ok, err)
	}
	must(t, s.PutBlocks(target, map[int][]byte{1: []byte("bbb"), 0: []byte("A")}))
	rd, err := s.TransferReader(target, 4)
	must(t, err)
	if got, err := io.ReadAll(rd); string(got) != "Abbb" || err == nil || !strings.Contains(err.Error(), "block 2") {
		t.Errorf("with a gap: got %q, %v", got, err)
	}
	must(t, s.PutBlocks(target, map[int][]byte{2: []byte("c")}))
	rd, err = s.TransferReader(target, 4)
	must(t, err)
	must(t, iotest.TestReader(rd, []byte("Abbbcd")))
	must(t, rd.Close())
	for name, blocks := range map[string]map[int][]byte{
		"negative":  {-1: []byte("x")},
		"far":       {maxBlocks: []byte("x")},
		"too large": {0: make([]byte, MaxBlock+1)},
		"empty":     {0: nil},
	} {
		if err := s.PutBlocks(target, blocks); err == nil {
			t.Errorf("%s block: accepted", name)
		}
	}
	must(t, s.BeginTransfer(target, []byte("another offer")))
	if tr, _, _ := s.Transfer(target); len(tr.Have) != 0 {
		t.Errorf("blocks of another offer are kept: %v", tr.Have)
	}
	if all, err := s.Transfers(); !slices.Equal(all, []string{target}) || err != nil {
		t.Errorf("transfers %q, %v", all, err)
	}
	must(t, s.EndTransfer(target))
	must(t, s.EndTransfer(target))
	if _, ok, err := s.Transfer(target); ok || err != nil {
		t.Errorf("ended: %v, %v", ok, err)
	}
	mustCheck(t, s)
}
