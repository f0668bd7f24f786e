package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// OffsetHeader says how many bytes of an unfinished upload the server has: go on there.
const OffsetHeader = "Upload-Offset"

// headBlob: 200 for content that is here, else 404 with OffsetHeader.
func (a *api) headBlob(w http.ResponseWriter, r *http.Request) {
	d, ok := a.digest(w, r)
	if !ok {
		return
	}
	n, err := a.Blobs.Size(d)
	if err == nil {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		w.WriteHeader(http.StatusOK)
		return
	}
	if errors.Is(err, store.ErrNotFound) {
		n, err := a.Blobs.Offset(d)
		if err == nil {
			w.Header().Set(OffsetHeader, strconv.FormatInt(n, 10))
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	a.error(w, r, err)
}

// putBlob takes content, or with Content-Range the next part of it: 201 when it is whole, 202 with OffsetHeader before, 416
// with OffsetHeader for a part that doesn't go on where the last ended.
func (a *api) putBlob(w http.ResponseWriter, r *http.Request) {
	d, ok := a.digest(w, r)
	if !ok {
		return
	}
	first, total, err := contentRange(r)
	if err == nil && (total < 1 || total > wire.MaxBlobBytes) {
		err = fmt.Errorf("content of %d bytes, want 1 to %d", total, wire.MaxBlobBytes)
	}
	if err != nil {
		a.fail(w, r, http.StatusBadRequest, err, "")
		return
	}
	// Uploads may take long, but not stand still: the deadline moves with each read.
	c := http.NewResponseController(w)
	done, err := a.Blobs.Append(d, first, total, &patient{r: http.MaxBytesReader(w, r.Body, total-first+1), c: c})
	if n, oerr := a.Blobs.Offset(d); oerr == nil && !done {
		w.Header().Set(OffsetHeader, strconv.FormatInt(n, 10))
	}
	if err != nil {
		a.error(w, r, err)
		return
	}
	if done {
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// contentRange reads "bytes first-last/total"; without one, the body is everything.
func contentRange(r *http.Request) (first, total int64, err error) {
	h := r.Header.Get("Content-Range")
	if h == "" {
		if r.ContentLength < 0 {
			return 0, 0, errors.New("read upload: no Content-Length and no Content-Range")
		}
		return 0, r.ContentLength, nil
	}
	s, unit := strings.CutPrefix(h, "bytes ")
	span, size, ok1 := strings.Cut(s, "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total, err3 := strconv.ParseInt(size, 10, 64)
	if !unit || !ok1 || !ok2 || errors.Join(err1, err2, err3) != nil || first < 0 || last < first || last >= total {
		return 0, 0, fmt.Errorf("read Content-Range %.80q: want \"bytes first-last/total\"", h)
	}
	return first, total, nil
}

const uploadStall = 30 * time.Second

type patient struct {
	r interface{ Read([]byte) (int, error) }
	c *http.ResponseController
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.c.SetReadDeadline(time.Now().Add(uploadStall)); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}
