package host

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"syscall"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// codeError is an error that has a wasi:http error-code of its own.
type codeError struct {
	code engine.Val
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// code makes a codeError; the payload is the variant's.
func code(name string, err error, payload ...engine.Val) error {
	return &codeError{engine.Variant(name, payload...), err}
}

var (
	errConnectTimeout   = code("connection-timeout", errors.New("the connect timeout has passed"))
	errFirstByteTimeout = code("connection-read-timeout", errors.New("the first-byte timeout has passed"))
	errBetweenBytes     = code("connection-read-timeout", errors.New("the between-bytes timeout has passed"))
)

// httpErrorCode gives the error-code behind a stream's error, if it is one of HTTP's.
func httpErrorCode(g *Guest, a []engine.Val) (engine.Val, error) {
	e, err := get[ioError](g, a[0])
	if err != nil {
		return none, err
	}
	var c *codeError
	if errors.As(e.err, &c) {
		return engine.Some(c.code), nil
	}
	return absent, nil
}

// errorCode maps what net/http reports about a request to wasi:http's error-code.
func errorCode(err error) engine.Val {
	var (
		c           *codeError
		dns         *net.DNSError
		remote      *net.OpError
		record      tls.RecordHeaderError
		certificate *tls.CertificateVerificationError
		hostname    x509.HostnameError
		authority   x509.UnknownAuthorityError
		invalid     x509.CertificateInvalidError
		timeout     net.Error
		tooLarge    *http.MaxBytesError
	)
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &tooLarge): // a limit before the host's
		return engine.Variant("HTTP-request-body-size", engine.Some(engine.U64(uint64(tooLarge.Limit))))
	case errors.As(err, &dns):
		switch {
		case dns.IsTimeout:
			return engine.Variant("DNS-timeout")
		case dns.IsNotFound:
			return dnsError("NXDOMAIN")
		}
		return dnsError("SERVFAIL")
	case errors.As(err, &remote) && remote.Op == "remote error" && reflect.ValueOf(remote.Err).Kind() == reflect.Uint8: // crypto/tls keeps the type to itself
		return engine.Variant("TLS-alert-received", engine.Record(
			engine.Field{Name: "alert-id", Val: engine.Some(engine.U8(uint8(reflect.ValueOf(remote.Err).Uint())))},
			engine.Field{Name: "alert-message", Val: someText(remote.Err.Error())},
		))
	case errors.As(err, &certificate), errors.As(err, &hostname), errors.As(err, &authority), errors.As(err, &invalid):
		return engine.Variant("TLS-certificate-error")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return engine.Variant("TLS-protocol-error")
	case errors.Is(err, syscall.ECONNREFUSED):
		return engine.Variant("connection-refused")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return engine.Variant("destination-IP-unroutable")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return engine.Variant("destination-IP-prohibited")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return engine.Variant("connection-limit-reached")
	case errors.As(err, &timeout) && timeout.Timeout():
		return engine.Variant("connection-timeout")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed):
		return engine.Variant("connection-terminated")
	}
	for _, m := range malformed {
		if strings.Contains(err.Error(), m.text) {
			return m.code
		}
	}
	return engine.Variant("internal-error", someText(err.Error()))
}

// malformed answers, by what net/http says about them: it has no values for these.
var malformed = []struct {
	text string
	code engine.Val
}{
	{"server response headers exceeded", engine.Variant("HTTP-response-header-section-size", absent)},
	{"unsupported transfer encoding", engine.Variant("HTTP-response-transfer-coding", absent)},
	{"malformed HTTP", engine.Variant("HTTP-protocol-error")},
	{"malformed MIME header", engine.Variant("HTTP-protocol-error")},
	{"Content-Length", engine.Variant("HTTP-protocol-error")},
	{"malformed chunked encoding", engine.Variant("HTTP-protocol-error")},
	{"in chunk length", engine.Variant("HTTP-protocol-error")},
	{"chunk length too large", engine.Variant("HTTP-protocol-error")},
	{"chunked encoding contains too much", engine.Variant("HTTP-protocol-error")},
	{"chunked line endings", engine.Variant("HTTP-protocol-error")},
	{"too many 1xx informational responses", engine.Variant("HTTP-protocol-error")},
}

func dnsError(rcode string) engine.Val {
	return engine.Variant("DNS-error", engine.Record(
		engine.Field{Name: "rcode", Val: someText(rcode)},
		engine.Field{Name: "info-code", Val: absent},
	))
}

// bodyError gives an error of a body's reader its error-code; incomplete is that of a body that breaks off.
func bodyError(err error, incomplete string) error {
	var c *codeError
	switch {
	case err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &c):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return code(incomplete, err)
	}
	return &codeError{errorCode(err), err}
}

// describe an error-code that a guest gave instead of a response.
func describe(code engine.Val) string {
	p := code.Payload()
	if code.Text() == "internal-error" && p.IsSet() {
		return fmt.Sprintf("%s: %s", code.Text(), p.Payload().Text())
	}
	return code.Text()
}
