package visitor

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Front is a real proxy that ends TLS in front of two servers. It runs with its file
// in docs/deploy; only ports and paths are replaced.
type Front struct {
	URL   string // of the site, by its name, over TLS
	Plain string // of the port without TLS

	t     testing.TB
	name  string
	dir   string // holds all that the proxy writes
	file  string
	admin string // where Caddy takes a new configuration
	log   Log
	pid   int
	end   func() // kills the proxy and all that it has started
}

// Fronts are the names of the proxies.
var Fronts = []string{"nginx", "caddy", "haproxy"}

// NewFront runs a proxy in front of two servers until the test ends. The pairs in
// changes are replaced in its file, as the ports and paths are. Without the program it
// is Missing.
func NewFront(t testing.TB, name string, servers []*Program, changes ...string) *Front {
	t.Helper()
	if programPath(name) == "" {
		Missing(t, "no "+name+": `make test-all` installs it as root on Debian, or put one on the PATH")
	}
	f := &Front{t: t, name: name, dir: t.TempDir(), admin: FreeAddr(t), end: func() {}}
	tls, plain := FreeAddr(t), FreeAddr(t)
	f.URL, f.Plain = "https://"+SiteName+":"+portOf(tls), "http://"+plain
	require.NoError(t, writeCertificate(f.dir))
	f.configure(slices.Concat(f.replacements(tls, plain), changes,
		[]string{"127.0.0.1:8081", servers[0].Addr(), "127.0.0.1:8082", servers[1].Addr()}))
	t.Cleanup(func() {
		f.end()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", name, lastLines(f.log.String(), 40))
		}
	})
	f.start()
	return f
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// FreeAddr returns an address on which nothing listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer free.Close()
	return free.Addr().String()
}

// programPath returns the path of a program, or nothing. What only root runs is not on
// everybody's PATH.
func programPath(name string) string {
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

// replacements are pairs of what the file says and what it says in a test.
func (f *Front) replacements(tls, plain string) []string {
	switch f.name {
	case "nginx":
		set := "http {"
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			set += fmt.Sprintf(" %s_temp_path %s/%s;", kind, f.dir, kind)
		}
		return []string{
			"user www-data", "user root", "/run/", f.dir + "/", "/var/log/nginx/", f.dir + "/", "http {", set,
			"listen 80", "listen " + plain, "listen 443", "listen " + tls, "/etc/ssl/" + SiteName, f.dir,
		}
	case "caddy":
		return []string{SiteName + " {", fmt.Sprintf("{\n admin %s\n http_port %s\n https_port %s\n default_bind 127.0.0.1\n}\n%s {\n tls %s %s",
			f.admin, portOf(plain), portOf(tls), SiteName, filepath.Join(f.dir, "fullchain.pem"), filepath.Join(f.dir, "privkey.pem"))}
	default:
		return []string{
			"user haproxy", "", "group haproxy", "", "chroot /var/lib/haproxy", "", // only root may
			"log /dev/log", "log stderr format raw", "bind :80", "bind " + plain, "bind :443", "bind " + tls,
			"/etc/haproxy/" + SiteName + ".pem", filepath.Join(f.dir, "both.pem"),
		}
	}
}

// configure writes the file with replacements.
func (f *Front) configure(pairs []string) {
	f.t.Helper()
	name := map[string]string{"nginx": "nginx.conf", "caddy": "Caddyfile", "haproxy": "haproxy.cfg"}[f.name]
	text, err := os.ReadFile(filepath.Join(Root(), "docs/deploy", name))
	require.NoError(f.t, err)
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(f.t, string(text), pairs[i], name)
	}
	f.file = filepath.Join(f.dir, name)
	require.NoError(f.t, os.WriteFile(f.file, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o600))
}

// The shell prints the ID of the program. It ends it, with all that it has started,
// when its own input ends: when that is closed, and also when the test has died.
const endWithTheTest = `trap : HUP INT TERM; setsid "$@" & echo $!; cat >/dev/null; kill -KILL -$!; wait`

// start starts the proxy, and waits until the site answers through it.
func (f *Front) start() {
	f.t.Helper()
	args := map[string][]string{
		"nginx":   {"-e", "stderr", "-c", f.file, "-g", "daemon off;"},
		"caddy":   {"run", "--adapter", "caddyfile", "--config", f.file},
		"haproxy": {"-W", "-f", f.file},
	}[f.name]
	cmd := exec.Command("sh", append([]string{"-c", endWithTheTest, "sh", programPath(f.name)}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+f.dir, "XDG_DATA_HOME="+f.dir, "XDG_CONFIG_HOME="+f.dir)
	cmd.Stderr = &f.log
	stdin, err := cmd.StdinPipe()
	require.NoError(f.t, err)
	line, err := startAndRead(cmd)
	require.NoError(f.t, err)
	f.end = func() {
		stdin.Close()
		cmd.Wait()
	}
	f.pid, err = strconv.Atoi(strings.TrimSpace(line))
	require.NoError(f.t, err)
	client := http.Client{Transport: overTLS(), Timeout: time.Second}
	require.Eventually(f.t, func() bool {
		resp, err := client.Head(f.URL + "/healthz")
		return err == nil && resp.StatusCode == http.StatusOK
	}, Soon, 20*time.Millisecond, "the site answers through %s", f.name)
}

// Restart kills the proxy, and starts it again.
func (f *Front) Restart() {
	f.t.Helper()
	f.end()
	f.start()
}

// Reload makes the proxy read its file again, as systemctl reload does.
func (f *Front) Reload() {
	f.t.Helper()
	switch f.name {
	case "nginx":
		require.NoError(f.t, syscall.Kill(f.pid, syscall.SIGHUP))
	case "haproxy":
		require.NoError(f.t, syscall.Kill(f.pid, syscall.SIGUSR2))
	case "caddy":
		out, err := exec.Command(programPath("caddy"), "reload", "--force", "--address", f.admin, "--adapter", "caddyfile", "--config", f.file).CombinedOutput()
		require.NoError(f.t, err, "%s", out)
	}
}
