package visitor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Front is a real proxy with TLS in front of two servers. It uses its configuration in
// docs/deploy, with other ports and paths.
type Front struct {
	URL   string // of the site, with TLS
	Plain string // of the port without TLS

	t     testing.TB
	name  string
	dir   string // for everything that the proxy writes
	file  string
	args  []string
	admin string // Caddy's admin address
	*Process
}

// Fronts are the names of the proxies.
var Fronts = []string{"nginx", "caddy", "haproxy"}

// NewFront runs a proxy in front of two servers until the test ends. changes are pairs of
// old and new text in its configuration. If the proxy is not installed, the test is skipped.
func NewFront(t testing.TB, name string, servers []*Program, changes ...string) *Front {
	t.Helper()
	if programPath(name) == "" {
		Missing(t, "no "+name+": `make test-all` installs it as root on Debian, or put one on the PATH")
	}
	f := &Front{t: t, name: name, dir: t.TempDir(), admin: FreeAddr(t)}
	tls, plain := FreeAddr(t), FreeAddr(t)
	f.URL, f.Plain = "https://"+SiteName+":"+portOf(tls), "http://"+plain
	f.configure(tls, plain, append(changes, "127.0.0.1:8081", servers[0].Addr(), "127.0.0.1:8082", servers[1].Addr()))
	t.Cleanup(func() {
		if f.Process == nil {
			return
		}
		f.Stop()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, lastLines(f.String(), 40))
		}
	})
	f.start()
	return f
}

// FreeAddr returns an address on which nothing listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer free.Close()
	return free.Addr().String()
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// programPath returns the path of a program, or "". It also looks in /usr/sbin, which is not
// on everybody's PATH.
func programPath(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		path, _ = exec.LookPath("/usr/sbin/" + name)
	}
	return path
}

// configure writes the configuration, with pairs of old and new text.
func (f *Front) configure(tls, plain string, pairs []string) {
	f.t.Helper()
	cert := filepath.Join(f.dir, "cert.pem")
	require.NoError(f.t, os.WriteFile(cert, certificatePEM(), 0o600))
	etc := "/etc/ssl/" + SiteName
	switch f.name {
	case "nginx":
		f.file = "nginx.conf"
		f.args = []string{"-e", "stderr", "-g", "daemon off;", "-c"}
		set := "http {"
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			set += fmt.Sprintf(" %s_temp_path %s/%s;", kind, f.dir, kind)
		}
		pairs = append(pairs, "user www-data", "user root", "/run/", f.dir+"/", "/var/log/nginx/", f.dir+"/", "http {", set,
			"listen 80", "listen "+plain, "listen 443", "listen "+tls, etc+"/fullchain.pem", cert, etc+"/privkey.pem", cert)
	case "caddy":
		f.file = "Caddyfile"
		f.args = []string{"run", "--adapter", "caddyfile", "--config"}
		pairs = append(pairs, SiteName+" {", fmt.Sprintf("{\n admin %s\n http_port %s\n https_port %s\n default_bind 127.0.0.1\n}\n%s {\n tls %s %s",
			f.admin, portOf(plain), portOf(tls), SiteName, cert, cert))
	case "haproxy":
		f.file = "haproxy.cfg"
		f.args = []string{"-W", "-f"}
		pairs = append(pairs, "user haproxy", "", "group haproxy", "", "chroot /var/lib/haproxy", "", // only root may
			"log /dev/log", "log stderr format raw", "bind :80", "bind "+plain, "bind :443", "bind "+tls, "/etc/haproxy/"+SiteName+".pem", cert)
	}
	text, err := os.ReadFile(filepath.Join(Root(), "docs/deploy", f.file))
	require.NoError(f.t, err)
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(f.t, string(text), pairs[i], f.file)
	}
	f.file = filepath.Join(f.dir, f.file)
	f.args = append(f.args, f.file)
	require.NoError(f.t, os.WriteFile(f.file, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o600))
}

// start starts the proxy, and waits until it serves the site.
func (f *Front) start() {
	f.t.Helper()
	home, err := os.MkdirTemp("", f.name)
	require.NoError(f.t, err)
	f.Process, err = StartProcess(home, nil, PID, append([]string{programPath(f.name)}, f.args...)...)
	require.NoError(f.t, err)
	client := http.Client{Transport: overTLS(), Timeout: time.Second}
	require.Eventually(f.t, func() bool {
		resp, err := client.Head(f.URL + "/healthz")
		return err == nil && resp.StatusCode == http.StatusOK
	}, Soon, 20*time.Millisecond, "the site answers through %s", f.name)
}

// Restart kills the proxy and starts it again.
func (f *Front) Restart() {
	f.t.Helper()
	f.Stop()
	f.start()
}

// Reload makes the proxy read its configuration again, as systemctl reload does.
func (f *Front) Reload() {
	f.t.Helper()
	reload := map[string]*exec.Cmd{
		"nginx":   exec.Command("kill", "-HUP", f.Match),
		"haproxy": exec.Command("kill", "-USR2", f.Match),
		"caddy":   exec.Command("caddy", "reload", "--force", "--address", f.admin, "--adapter", "caddyfile", "--config", f.file),
	}[f.name]
	out, err := reload.CombinedOutput()
	require.NoError(f.t, err, "%s", out)
}

// SiteName is the host name in docs/deploy. Visitors resolve it to this machine.
const SiteName = "realtime.example.com"

// certificate is that of package httptest, which is valid for SiteName. Visitors and
// browsers trust it.
var certificate = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	c := s.TLS.Certificates[0]
	c.Leaf = s.Certificate()
	return c
})

// certificatePEM returns the certificate and its key.
func certificatePEM() []byte {
	c := certificate()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		panic(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Leaf.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
}

// ChromiumFlags returns the flags with which Chromium resolves SiteName and trusts its
// certificate. Nothing comes from the public CDN, which hangs.
func ChromiumFlags() map[string]string {
	pin := sha256.Sum256(certificate().Leaf.RawSubjectPublicKeyInfo)
	return map[string]string{
		"host-resolver-rules":                 "MAP " + SiteName + " 127.0.0.1, MAP cdn.jsdelivr.net " + silent().Addr().String(),
		"ignore-certificate-errors-spki-list": base64.StdEncoding.EncodeToString(pin[:]),
	}
}

// silent returns the listener of a server that never answers.
var silent = sync.OnceValue(func() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return listener
})

// tlsConfig trusts the certificate of SiteName.
func tlsConfig() *tls.Config {
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate().Leaf)
	return &tls.Config{RootCAs: trusted}
}

// dial resolves SiteName to this machine.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, strings.Replace(addr, SiteName, "127.0.0.1", 1))
}

// overTLS returns the transport for requests to SiteName.
var overTLS = sync.OnceValue(func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext, t.TLSClientConfig, t.ForceAttemptHTTP2 = dial, tlsConfig(), true
	return t
})
