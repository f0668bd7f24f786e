package host

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Retries of a request that may be sent again. Few and short: they count against the event's own time.
const (
	retries   = 2
	retryFrom = 50 * time.Millisecond
	retryTo   = time.Second
)

// Bounds of a connection to a server.
const (
	dialTimeout = 30 * time.Second
	idleTimeout = 30 * time.Second
)

// defaultClient of all guests: bodies arrive as they were sent, and no header is unbounded.
func defaultClient() *http.Client {
	return withoutRedirects(&http.Client{Transport: newEgress(nil)})
}

// withoutRedirects leaves redirects to the guest: each hop then needs its own grant.
func withoutRedirects(c *http.Client) *http.Client {
	same := *c
	same.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &same
}

// attempt the request, again if that can do no harm and may help.
func attempt(client *http.Client, req *http.Request, repeatable bool) (*http.Response, error) {
	if !repeatable {
		return client.Do(req)
	}
	again, err := retryablehttp.FromRequest(req)
	if err != nil {
		return nil, err
	}
	retrier := retryablehttp.Client{
		HTTPClient:   client,
		RetryMax:     retries,
		RetryWaitMin: retryFrom,
		RetryWaitMax: retryTo,
		CheckRetry:   worthRetrying,
		// Without the response: a server's Retry-After would outlast the event.
		Backoff: func(from, to time.Duration, n int, _ *http.Response) time.Duration {
			return retryablehttp.DefaultBackoff(from, to, n, nil)
		},
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return retrier.Do(again)
}

// worthRetrying are failures of the way to the server, and of gateways, that may pass.
func worthRetrying(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil {
		return resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout && resp.Header.Get("Retry-After") == "", nil
	}
	var dns *net.DNSError
	var ours *codeError
	if errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &ours) {
		return false, nil
	}
	// DefaultRetryPolicy knows which errors are permanent; it reports those as an error of its own.
	retry, _ := retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	return retry, nil
}

// trace makes the guest's timeouts end ctx, whichever client sends the request.
func (o *requestOptions) trace(ctx context.Context, cancel context.CancelCauseFunc) context.Context {
	connect, firstByte := limitOf(o.connect), limitOf(o.firstByte)
	if connect == 0 && firstByte == 0 {
		return ctx
	}
	var connecting, waiting *time.Timer // net/http calls the hooks one after the other
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) {
			if connecting != nil { // of an attempt that failed
				connecting.Stop()
			}
			if connect > 0 {
				connecting = time.AfterFunc(connect, func() { cancel(errConnectTimeout) })
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			if connecting != nil {
				connecting.Stop()
			}
			if firstByte > 0 {
				waiting = time.AfterFunc(firstByte, func() { cancel(errFirstByteTimeout) })
			}
		},
		GotFirstResponseByte: func() {
			if waiting != nil {
				waiting.Stop()
			}
		},
	})
}
