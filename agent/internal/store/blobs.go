package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// A blob is a bucket named by its digest: "size", and one bucket a chunk that holds the chunk alone. A value in a bucket
// of its own has its own pages; side by side in one leaf, bbolt would write up to three neighbours again with each chunk.
var (
	keySize  = []byte("size")
	keyBytes = []byte("b")
)

const (
	// chunkSize fills 64 pages with the page's head, element, key and checksumless value.
	chunkSize = 64*pageSize - pageHeader - elementSize - 1
	// commitChunks are written in one bbolt commit, so that an event's commit never waits for a whole component.
	commitChunks = 4
)

func parseDigest(digest string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	h, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return sum, fmt.Errorf("digest %q is not sha256: and 64 lowercase hex digits", digest)
	}
	if _, err := hex.Decode(sum[:], []byte(h)); err != nil {
		return sum, fmt.Errorf("digest %q: %w", digest, err)
	}
	return sum, nil
}

func indexKey(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

// PutBlob stores what r gives when its size (bytes, at most MaxBlob) and SHA-256 are the ones named; else an error and
// nothing is kept. A blob that is already there is left alone and r is not read. r is read in chunks, each few of which
// are committed; the blob appears with the last commit.
func (s *Store) PutBlob(digest string, size int64, r io.Reader) error {
	want, err := parseDigest(digest)
	if err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	if size < 0 || size > MaxBlob {
		return fmt.Errorf("put blob %s: %w: %d bytes, at most %d", digest, ErrTooLarge, size, MaxBlob)
	}
	if has, err := s.HasBlob(digest); has || err != nil {
		return err
	}
	stage := binary.BigEndian.AppendUint64(nil, s.stage.Add(1))
	if err := s.stageBlob(stage, digest, want, size, r); err != nil {
		err = fmt.Errorf("put blob %s: %w", digest, err)
		if e := s.update(func(tx *bolt.Tx) error { return dropBucket(tx.Bucket(bucketStaging), stage) }); e != nil {
			err = errors.Join(err, e) // what stays there goes at the next Open
		}
		return err
	}
	return nil
}

func (s *Store) stageBlob(stage []byte, digest string, want [sha256.Size]byte, size int64, r io.Reader) error {
	h := sha256.New()
	buf := make([]byte, min(commitChunks*chunkSize, size))
	for done, index := int64(0), 0; ; {
		part := buf[:min(int64(len(buf)), size-done)]
		if n, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("got %d bytes, want %d", done+int64(n), size)
			}
			return err
		}
		h.Write(part)
		done += int64(len(part))
		last := done == size
		if last {
			if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 {
				return fmt.Errorf("got more than the %d bytes that were named", size)
			} else if !errors.Is(err, io.EOF) {
				return err
			}
			if got := h.Sum(nil); !bytes.Equal(got, want[:]) {
				return fmt.Errorf("content has digest sha256:%x", got)
			}
		}
		err := s.update(func(tx *bolt.Tx) error {
			parent, err := tx.Bucket(bucketStaging).CreateBucketIfNotExists(stage)
			if err != nil {
				return err
			}
			b, err := parent.CreateBucketIfNotExists([]byte(digest))
			if err != nil {
				return err
			}
			for i := index; len(part) > 0; i++ {
				n := min(len(part), chunkSize)
				c, err := b.CreateBucket(indexKey(i))
				if err != nil {
					return err
				}
				if err := c.Put(keyBytes, part[:n]); err != nil {
					return err
				}
				part = part[n:]
			}
			if !last {
				return nil
			}
			return b.Put(keySize, binary.BigEndian.AppendUint64(nil, uint64(size)))
		})
		if err != nil {
			return err
		}
		if last {
			return s.publishBlob(stage, digest)
		}
		index += commitChunks
	}
}

// publishBlob has a bbolt transaction of its own: MoveBucket loses what the same transaction wrote into the bucket.
func (s *Store) publishBlob(stage []byte, digest string) error {
	return s.update(func(tx *bolt.Tx) error {
		blobs := tx.Bucket(bucketBlobs)
		if blobs.Bucket([]byte(digest)) == nil { // else another PutBlob was first
			if err := tx.Bucket(bucketStaging).Bucket(stage).MoveBucket([]byte(digest), blobs); err != nil {
				return err
			}
		}
		return dropBucket(tx.Bucket(bucketStaging), stage)
	})
}

// Blob reads a blob, and checks it against its digest every time: reads are rare (a compilation, the base of a patch), and
// the card may have changed its mind since. A blob that no longer matches is removed, so that it can be fetched again, and
// the error is ErrDamaged.
func (s *Store) Blob(digest string) (data []byte, ok bool, err error) {
	if _, err := parseDigest(digest); err != nil {
		return nil, false, fmt.Errorf("read blob: %w", err)
	}
	err = s.view(func(tx *bolt.Tx) error { data, ok, err = readBlob(tx, digest); return err })
	if err == nil {
		return data, ok, nil
	}
	var mismatch *mismatchError
	if errors.As(err, &mismatch) {
		if e := s.DeleteBlob(digest); e != nil {
			return nil, false, fmt.Errorf("read blob: %w; then %w", err, e)
		}
		err = fmt.Errorf("%w; it was removed: fetch it again", err)
	}
	return nil, false, fmt.Errorf("read blob: %w", err)
}

// mismatchError: the pages are sound, their content isn't.
type mismatchError struct{ digest string }

func (e *mismatchError) Error() string {
	return fmt.Sprintf("content of blob %s does not match its digest", e.digest)
}
func (e *mismatchError) Unwrap() error { return ErrDamaged }

func readBlob(tx *bolt.Tx, digest string) ([]byte, bool, error) {
	want, err := parseDigest(digest)
	if err != nil {
		return nil, false, &mismatchError{digest}
	}
	b := tx.Bucket(bucketBlobs).Bucket([]byte(digest))
	if b == nil {
		return nil, false, nil
	}
	v := b.Get(keySize)
	if len(v) != 8 || binary.BigEndian.Uint64(v) > MaxBlob {
		return nil, false, &mismatchError{digest}
	}
	size := int(binary.BigEndian.Uint64(v))
	data := make([]byte, 0, size)
	for i := 0; len(data) < size; i++ {
		c := b.Bucket(indexKey(i))
		if c == nil {
			return nil, false, &mismatchError{digest}
		}
		part := c.Get(keyBytes)
		if len(part) == 0 || len(part) > size-len(data) {
			return nil, false, &mismatchError{digest}
		}
		data = append(data, part...)
	}
	if sha256.Sum256(data) != want {
		return nil, false, &mismatchError{digest}
	}
	return data, true, nil
}

// HasBlob reports whether a blob is there, without reading it.
func (s *Store) HasBlob(digest string) (has bool, err error) {
	if _, err := parseDigest(digest); err != nil {
		return false, fmt.Errorf("find blob: %w", err)
	}
	err = s.view(func(tx *bolt.Tx) error {
		has = tx.Bucket(bucketBlobs).Bucket([]byte(digest)) != nil
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("find blob %s: %w", digest, err)
	}
	return has, nil
}

// Blobs lists the digests, sorted.
func (s *Store) Blobs() (digests []string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		digests = nil
		return tx.Bucket(bucketBlobs).ForEachBucket(func(k []byte) error {
			digests = append(digests, string(k))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	return digests, nil
}

// DeleteBlob removes a blob; one that isn't there is no error.
func (s *Store) DeleteBlob(digest string) error {
	has, err := s.HasBlob(digest)
	if err != nil || !has {
		return err
	}
	if err := s.update(func(tx *bolt.Tx) error { return dropBucket(tx.Bucket(bucketBlobs), []byte(digest)) }); err != nil {
		return fmt.Errorf("delete blob %s: %w", digest, err)
	}
	return nil
}

// dropStaging removes the blobs that were being stored when the last process ended.
func (s *Store) dropStaging() error {
	var left [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketStaging)
		if b == nil {
			return damaged("bucket %q is missing", bucketStaging)
		}
		return b.ForEachBucket(func(k []byte) error { left = append(left, bytes.Clone(k)); return nil })
	})
	if err != nil || len(left) == 0 {
		return err
	}
	return s.update(func(tx *bolt.Tx) error {
		for _, k := range left {
			if err := dropBucket(tx.Bucket(bucketStaging), k); err != nil {
				return err
			}
		}
		return nil
	})
}

func dropBucket(parent *bolt.Bucket, name []byte) error {
	if parent.Bucket(name) == nil {
		return nil
	}
	return parent.DeleteBucket(name)
}
