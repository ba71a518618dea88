package cluster

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"realtime/internal/dial"
)

//go:embed read.lua
var readScript string

//go:embed write.lua
var writeScript string

var read, write = redis.NewScript(readScript), redis.NewScript(writeScript)

// message holds the changes of a server. It is published as it is written.
type message struct {
	Counts  map[string]int64   `json:"counts,omitempty"`  // by life of a process
	Server  string             `json:"server,omitempty"`  // whose entries have changed
	Version int64              `json:"version,omitempty"` // of its entries; negative if it leaves
	Whole   bool               `json:"whole,omitempty"`   // these are all of them
	Entries map[string]*string `json:"entries,omitempty"` // by ID; nil if removed
}

// found is the state of Redis that differs from what is known here.
type found struct {
	Leases  map[string]int64   // milliseconds left, by server: all of them
	Changed map[string]message // by server
	Counts  map[string]int64   // nil if their sum is known
}

// link is the connection to Redis.
type link struct {
	*redis.Client
	keys    []string // of the counts, the servers, this server's entries, and the mark that it has left
	prefix  string   // of the keys of entries
	channel string   // with the number of the database, because channels are common to all
	sub     *redis.PubSub
	heard   <-chan *redis.Message // nil while unsubscribed
}

func newLink(opts Options, id string) (*link, error) {
	client, err := dial.Redis(opts.URL, opts.Renew/2) // half, because a command is sent twice
	if err != nil {
		return nil, err
	}
	of := opts.Prefix + ":"
	return &link{
		Client:  client,
		keys:    []string{of + "counts", of + "servers", of + "server:" + id, of + "left:" + id},
		prefix:  of + "server:",
		channel: fmt.Sprint(of, client.Options().DB, ":changes"),
	}, nil
}

func (l *link) subscribe(ctx context.Context) error {
	l.sub = l.Subscribe(ctx, l.channel)
	if _, err := l.sub.ReceiveTimeout(ctx, l.Options().ReadTimeout); err != nil {
		return err
	}
	l.heard = l.sub.Channel() // pings, and resubscribes after a lost connection
	return nil
}

func (l *link) unsubscribe() {
	if l.sub != nil {
		l.sub.Close()
	}
	l.sub, l.heard = nil, nil
}

// read renews the lease. It omits counts with this sum, and entries of these versions.
func (l *link) read(ctx context.Context, lease time.Duration, sum int64, versions map[string]int64) (f found, err error) {
	known, _ := json.Marshal(versions)
	text, err := read.Run(ctx, l, l.keys, lease.Milliseconds(), l.prefix, sum, known).Text()
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal([]byte(text), &f)
}

// write reports whether the message applied to the state of Redis, and was published.
func (l *link) write(ctx context.Context, msg message, lease time.Duration) (applied bool, err error) {
	text, _ := json.Marshal(msg) // cannot fail: only text and numbers
	return write.Run(ctx, l, l.keys, l.channel, text, lease.Milliseconds()).Bool()
}
