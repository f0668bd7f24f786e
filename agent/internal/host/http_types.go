package host

import (
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

func httpInterfaces() []*iface {
	funcs := map[string]fn{"http-error-code": f(httpErrorCode, kHandle)}
	fieldsFuncs(funcs)
	incomingFuncs(funcs)
	responseFuncs(funcs)
	requestFuncs(funcs)
	outgoingBodyFuncs(funcs)
	return []*iface{
		{
			name:  "wasi:http/types" + wasi,
			funcs: funcs,
			resources: resources{
				"fields":                   typFields,
				"incoming-request":         typIncomingRequest,
				"outgoing-request":         typOutgoingRequest,
				"request-options":          typRequestOptions,
				"response-outparam":        typResponseOutparam,
				"incoming-response":        typIncomingResponse,
				"incoming-body":            typIncomingBody,
				"future-trailers":          typFutureTrailers,
				"outgoing-response":        typOutgoingResponse,
				"outgoing-body":            typOutgoingBody,
				"future-incoming-response": typFutureIncomingResponse,
				"headers":                  typFields,
				"trailers":                 typFields,
				"io-error":                 typError,
				"pollable":                 typPollable,
				"input-stream":             typInputStream,
				"output-stream":            typOutputStream,
			},
		},
		{
			name:  "wasi:http/outgoing-handler" + wasi,
			funcs: map[string]fn{"handle": f(outgoingHandle, kHandle, kOption)},
			resources: resources{
				"outgoing-request":         typOutgoingRequest,
				"request-options":          typRequestOptions,
				"future-incoming-response": typFutureIncomingResponse,
			},
		},
	}
}

// methods of the variant, by net/http's name.
var methods = map[string]engine.Val{
	"GET": engine.Variant("get"), "HEAD": engine.Variant("head"), "POST": engine.Variant("post"), "PUT": engine.Variant("put"),
	"DELETE": engine.Variant("delete"), "CONNECT": engine.Variant("connect"), "OPTIONS": engine.Variant("options"),
	"TRACE": engine.Variant("trace"), "PATCH": engine.Variant("patch"),
}

// methodVal is the variant of an HTTP method, which is case-sensitive; the source has checked that it is a token.
func methodVal(name string) engine.Val {
	if v, ok := methods[name]; ok {
		return v
	}
	return engine.Variant("other", engine.String(name))
}

// methodName is the HTTP method of a variant; not ok if it is no token.
func methodName(v engine.Val) (string, bool) {
	if v.Text() == "other" {
		name := v.Payload().Text()
		return name, validName(name)
	}
	return strings.ToUpper(v.Text()), true
}

var (
	schemeHTTP  = engine.Variant("HTTP")
	schemeHTTPS = engine.Variant("HTTPS")
)

// schemeVal is the variant of a lower-case scheme.
func schemeVal(name string) engine.Val {
	switch name {
	case "http":
		return schemeHTTP
	case "https":
		return schemeHTTPS
	}
	return engine.Variant("other", engine.String(name))
}

// schemeName is the lower-case scheme of a variant; not ok if it is no scheme.
func schemeName(v engine.Val) (string, bool) {
	name := strings.ToLower(v.Text())
	if v.Text() == "other" {
		name = strings.ToLower(v.Payload().Text())
	}
	for i, c := range name {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return "", false
		}
	}
	return name, name != ""
}

// someText is an option<string> where "" is none.
func someText(s string) engine.Val {
	if s == "" {
		return absent
	}
	return engine.Some(engine.String(strings.ToValidUTF8(s, "�")))
}
