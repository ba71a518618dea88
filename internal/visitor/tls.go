package visitor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
)

// SiteName is the host name in the files of docs/deploy. For visitors it is this
// machine.
const SiteName = "realtime.example.com"

// certificate is what SiteName shows while the tests run: that of package httptest,
// which is for every name below example.com. Visitors and browsers trust it.
var certificate = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	c := s.TLS.Certificates[0]
	c.Leaf = s.Certificate()
	return c
})

// certificatePEM is the certificate, and its key.
func certificatePEM() []byte {
	c := certificate()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		panic(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Leaf.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
}

// ChromiumFlags are the flags by which Chromium finds SiteName and trusts its
// certificate.
func ChromiumFlags() map[string]string {
	pin := sha256.Sum256(certificate().Leaf.RawSubjectPublicKeyInfo)
	return map[string]string{
		"host-resolver-rules":                 "MAP " + SiteName + " 127.0.0.1",
		"ignore-certificate-errors-spki-list": base64.StdEncoding.EncodeToString(pin[:]),
	}
}

// tlsConfig trusts the certificate of SiteName.
func tlsConfig() *tls.Config {
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate().Leaf)
	return &tls.Config{RootCAs: trusted}
}

// dial finds SiteName on this machine.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, strings.Replace(addr, SiteName, "127.0.0.1", 1))
}

// overTLS is what requests to SiteName go through.
var overTLS = sync.OnceValue(func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext, t.TLSClientConfig, t.ForceAttemptHTTP2 = dial, tlsConfig(), true
	return t
})
