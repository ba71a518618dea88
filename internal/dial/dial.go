// Package dial connects to Redis, and explains in one sentence why a Redis cannot be used.
package dial

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// idle is shorter than the time after which a firewall forgets a connection.
const idle = 30 * time.Second

// Redis returns a client of the Redis at a URL: redis://[USER:PASSWORD@]HOST:PORT/DB,
// rediss:// with TLS, or unix://PATH. It retries a command once that gets no answer before the
// timeout, so commands must be idempotent. An error means that the URL is invalid; it does not
// quote the URL, which may contain a password.
func Redis(url string, timeout time.Duration) (*redis.Client, error) {
	config, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("the address of redis is invalid: want redis://HOST:PORT/0")
	}
	config.MaxRetries, config.DialerRetries = 1, 1
	config.DialTimeout, config.ReadTimeout, config.WriteTimeout, config.PoolTimeout = timeout, timeout, timeout, timeout
	config.ContextTimeoutEnabled, config.DisableIdentity = true, true
	config.ConnMaxIdleTime = idle
	return redis.NewClient(config), nil
}

// Refused reports whether Redis is up and refuses a command.
func Refused(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !isAny(err, "LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN", "max number of clients")
}

// Explain returns an error that says why the Redis of a client cannot be used, and whether
// retrying may help.
func Explain(err error, client *redis.Client) (explained error, retry bool) {
	var plain tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &plain) || os.IsTimeout(err) && client.Options().TLSConfig != nil:
		return errors.New("it does not speak TLS: want redis:// instead of rediss://"), os.IsTimeout(err)
	case errors.As(err, &certificate):
		return fmt.Errorf("%w (SSL_CERT_FILE may name a file with its CA)", err), false
	case errors.Is(err, io.EOF):
		return errors.New("it closes the connection: want rediss:// if it speaks TLS"), true
	case isAny(err, "MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"):
		return errors.New("it is a node of a Redis Cluster, which is not supported: want a single Redis"), false
	case isAny(err, "NOPERM", "The user executing the script"):
		return fmt.Errorf("%w (docs/operating.md lists the permissions that are needed)", err), false
	}
	return err, !Refused(err) || isAny(err, "OOM", "MISCONF", "READONLY", "NOREPLICAS")
}

func isAny(err error, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) })
}
