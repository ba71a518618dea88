package site

import (
	"bytes"
	"cmp"
	"net/http"
)

// A recorder holds an answer of the framework until it is complete. The framework
// writes answers while it holds locks, which must not wait for a slow reader.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func newRecorder(header http.Header) *recorder { return &recorder{header: header} }

func (a *recorder) Header() http.Header         { return a.header }
func (a *recorder) WriteHeader(status int)      { a.code = status }
func (a *recorder) Write(b []byte) (int, error) { return a.body.Write(b) }

// status is the status of the answer.
func (a *recorder) status() int { return cmp.Or(a.code, http.StatusOK) }
