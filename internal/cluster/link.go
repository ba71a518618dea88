package cluster

import (
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed read.lua
var readScript string

//go:embed write.lua
var writeScript string

var read, write = redis.NewScript(readScript), redis.NewScript(writeScript)

// message is what a server has changed. It is published as it is written.
type message struct {
	Counts  map[string]int64   `json:"counts,omitempty"`  // by life of a process
	Server  string             `json:"server,omitempty"`  // whose entries have changed
	Version int64              `json:"version,omitempty"` // of its entries; negative if it leaves
	Whole   bool               `json:"whole,omitempty"`   // these are all of them
	Entries map[string]*string `json:"entries,omitempty"` // nil if removed
}

// found is what Redis has.
type found struct {
	Leases  map[string]int64   // milliseconds that are left, by server
	Changed map[string]message // by server
	Counts  map[string]int64   // nil if their sum is known
}

// link is the way to Redis.
type link struct {
	*redis.Client
	keys    []string // counts, servers, and of this server its entries and whether it has left
	prefix  string   // of the keys of entries
	channel string   // its name has the number of the database, because channels have none
	sub     *redis.PubSub
	heard   <-chan *redis.Message // nil while the link is closed
}

func newLink(opts Options, id string) (*link, error) {
	config, err := redis.ParseURL(opts.URL)
	if err != nil { // it quotes the URL, which may hold a password
		return nil, errors.New("the address of redis is not valid: want redis://HOST:PORT/0")
	}
	config.MaxRetries, config.DialerRetries = 1, 1 // nothing changes if it is done twice
	answer := opts.Renew / 2
	config.DialTimeout, config.ReadTimeout, config.WriteTimeout, config.PoolTimeout = answer, answer, answer, answer
	config.ContextTimeoutEnabled, config.DisableIdentity = true, true
	config.ConnMaxIdleTime = 30 * time.Second // before a firewall forgets the connection
	of := opts.Prefix + ":"
	return &link{
		Client:  redis.NewClient(config),
		keys:    []string{of + "counts", of + "servers", of + "server:" + id, of + "left:" + id},
		prefix:  of + "server:",
		channel: fmt.Sprint(of, config.DB, ":changes"),
	}, nil
}

func (l *link) open(ctx context.Context) error {
	l.sub = l.Subscribe(ctx, l.channel)
	if _, err := l.sub.ReceiveTimeout(ctx, l.Options().ReadTimeout); err != nil {
		return err
	}
	l.heard = l.sub.Channel() // it pings, and subscribes again if need be
	return nil
}

func (l *link) close() {
	if l.sub != nil {
		l.sub.Close()
	}
	l.sub, l.heard = nil, nil
}

// read renews the lease. It leaves out counts with that sum, and entries of those versions.
func (l *link) read(ctx context.Context, lease time.Duration, sum int64, versions map[string]int64) (f found, err error) {
	known, _ := json.Marshal(versions)
	text, err := read.Run(ctx, l, l.keys, lease.Milliseconds(), l.prefix, sum, known).Text()
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal([]byte(text), &f)
}

// write reports whether the message followed what Redis has, and was published.
func (l *link) write(ctx context.Context, msg message, lease time.Duration) (applied bool, err error) {
	const transit = time.Minute  // longer than a command is on its way
	text, _ := json.Marshal(msg) // of text and numbers: it cannot fail
	return write.Run(ctx, l, l.keys, l.channel, text, lease.Milliseconds(), transit.Milliseconds()).Bool()
}

// refused reports that Redis is there, and does not do what it is asked.
func refused(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !isAny(err, "LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN", "max number of clients")
}

func isAny(err error, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) })
}

// explain says why a server cannot start, and whether that may pass.
func explain(err error, with *redis.Options) (explained error, mayPass bool) {
	var plain tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &plain) || os.IsTimeout(err) && with.TLSConfig != nil:
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
	return err, !refused(err) || isAny(err, "OOM", "MISCONF", "READONLY", "NOREPLICAS")
}
