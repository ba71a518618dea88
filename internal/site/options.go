package site

import (
	"io/fs"
	"log/slog"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/assets"
	"realtime/internal/wsconn"
)

// Options configure a Site.
type Options struct {
	// Templates holds the template files of the pages. Beside them it holds
	// layout.tmpl, which renders a page around its template "content" and may load
	// files by the function asset; live.tmpl, which renders the template "live";
	// index.tmpl; and not-found.tmpl.
	Templates fs.FS
	// Files are the files that pages load.
	Files *assets.Files
	// Authenticator identifies visitors. Default: each browser is somebody else.
	Authenticator livetemplate.Authenticator
	// Category is the heading that the pages stand under.
	Category string
	// Degraded reports whether something that the pages need is missing, for
	// /readyz. Default: nothing ever is.
	Degraded func() bool

	Log *slog.Logger // default: slog.Default()

	// AllowOrigins are origins besides the site's own that may connect and post,
	// such as https://example.com.
	AllowOrigins []string
	// TrustProxy means that every request comes through a proxy that sets
	// X-Forwarded-Proto, -Host and -For. Without a proxy anybody could set them.
	TrustProxy bool
	// MaxConnections and MaxPerSession limit the live connections of all browsers
	// and of one. Default: DefaultMaxConnections and DefaultMaxPerSession.
	MaxConnections int
	MaxPerSession  int

	// Heartbeat finds visitors whose network is gone or who do not read. Default:
	// that of wsconn.
	Heartbeat wsconn.Heartbeat
	// Drain is the time over which a stop spreads the ends of connections, so that
	// their pages do not reconnect all at once. Default: DefaultDrain.
	Drain time.Duration
}

// DefaultDrain also gives a load balancer time to see that /readyz says 503.
const DefaultDrain = time.Second
