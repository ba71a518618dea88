package visitor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// SiteName is the host name in the files of docs/deploy. For visitors it is this
// machine.
const SiteName = "realtime.example.com"

// certificate is the certificate of SiteName while the tests run. Visitors and
// browsers trust it.
type certificate struct {
	der, key []byte
	trusted  *x509.CertPool
	pin      string // the hash of its public key, as Chromium takes it
}

var siteCertificate = sync.OnceValue(func() *certificate {
	c, err := newCertificate()
	if err != nil {
		panic(fmt.Sprint("a certificate: ", err))
	}
	return c
})

func newCertificate() (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: SiteName},
		DNSNames:     []string{SiteName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	c := &certificate{trusted: x509.NewCertPool()}
	if c.der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		return nil, err
	}
	if c.key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(c.der)
	if err != nil {
		return nil, err
	}
	c.trusted.AddCert(parsed)
	hash := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	c.pin = base64.StdEncoding.EncodeToString(hash[:])
	return c, nil
}

// write writes the certificate and its key to files; both may be the same file.
func (c *certificate) write(certFile, keyFile string) error {
	for _, block := range []struct {
		file, kind string
		bytes      []byte
	}{{certFile, "CERTIFICATE", c.der}, {keyFile, "PRIVATE KEY", c.key}} {
		file, err := os.OpenFile(block.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		err = pem.Encode(file, &pem.Block{Type: block.kind, Bytes: block.bytes})
		if closed := file.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ChromiumFlags are the flags by which Chromium finds SiteName and trusts its
// certificate.
func ChromiumFlags() map[string]string {
	return map[string]string{
		"host-resolver-rules":                 "MAP " + SiteName + " 127.0.0.1",
		"ignore-certificate-errors-spki-list": siteCertificate().pin,
	}
}

// tlsConfig trusts the certificate of SiteName.
func tlsConfig() *tls.Config { return &tls.Config{RootCAs: siteCertificate().trusted} }

// dial finds SiteName on this machine.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, strings.Replace(addr, SiteName, "127.0.0.1", 1))
}

// overTLS is what requests to SiteName go through.
var overTLS = sync.OnceValue(func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext, t.TLSClientConfig, t.ForceAttemptHTTP2 = dial, tlsConfig(), true
	return t
})
