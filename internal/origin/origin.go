// Package origin writes hosts and origins as browsers write them, so that they can be
// compared: in lower case, without the default port, and IPv6 addresses in their short
// form. Proxies and people write them in other ways.
package origin

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Host returns a host, perhaps with a port, as browsers write it in an origin.
func Host(scheme, host string) string {
	u := url.URL{Host: host}
	name, port := strings.ToLower(u.Hostname()), u.Port()
	if ip, err := netip.ParseAddr(name); err == nil && !ip.Is4In6() { // which Go writes in another way
		name = ip.String()
	}
	if port == map[string]string{"http": "80", "https": "443"}[scheme] {
		port = ""
	}
	return strings.TrimSuffix(net.JoinHostPort(name, port), ":")
}

// The parts of an origin that a page can have. Its scheme is not that of a socket, and its
// host is a name, in Punycode if need be, or an address, and no pattern.
var (
	socketScheme = regexp.MustCompile(`^wss?$`)
	pageHost     = regexp.MustCompile(`^[A-Za-z0-9._-]+$|^[0-9A-Fa-f:.]+$`)
)

// Canonical returns an origin as browsers write it: https://Example.com:443/ is
// https://example.com. An error says what an origin looks like.
func Canonical(text string) (string, error) {
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err == nil && u.Port() != "" {
		var port uint64
		port, err = strconv.ParseUint(u.Port(), 10, 16)
		u.Host = net.JoinHostPort(u.Hostname(), strconv.FormatUint(port, 10))
	}
	if err != nil || u.Scheme == "" || socketScheme.MatchString(u.Scheme) || !pageHost.MatchString(u.Hostname()) ||
		*u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return "", errors.New("want an origin such as https://example.com or https://example.com:8443, exact and in ASCII")
	}
	return u.Scheme + "://" + Host(u.Scheme, u.Host), nil
}
