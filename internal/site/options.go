package site

import (
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/assets"
	"realtime/internal/wsconn"
)

// Options configure a Site.
type Options struct {
	// Templates holds the template files of the pages. Beside them it holds
	// layout.tmpl, which renders a page around its template "content"; parts.tmpl,
	// whose definitions all pages may use; live.tmpl, which renders the template
	// "live"; index.tmpl; and not-found.tmpl. These may call asset, which returns a
	// file that a page loads; kind, which returns "fixed" for a page without a live part,
	// "live", or "framed" for a live page in a frame, where the layout should show "live"
	// and little else; build, which identifies what a live page is made of; address, the
	// path of the page; to, the href of a link, marked if it leads to the page itself;
	// origin, that of the site; and cdn, from which missing files load. The root element of
	// a live page has the build as its attribute data-build.
	Templates fs.FS
	// Funcs are functions that these files may call as well. The files of live pages
	// may call none: the framework reads them too, and does not know them.
	Funcs template.FuncMap
	// Files are the files that pages load.
	Files *assets.Files
	// Authenticator identifies visitors. A visitor whom it gives no identity has that
	// of the browser session. Default: it gives nobody an identity.
	Authenticator livetemplate.Authenticator
	// Category is the heading that the pages stand under.
	Category string

	Log *slog.Logger // default: slog.Default()

	// AllowOrigins are origins besides the site's own that may connect and post, as
	// origin.Canonical returns them.
	AllowOrigins []string
	// Around returns a handler of all requests that hands them on to next: it may log them,
	// or take from a proxy their host and scheme, which it sets in their URL. route returns
	// what a request is for: the path of a page, "/static/" for every file, or "other".
	// Default: none.
	Around func(next http.Handler, route func(*http.Request) string) http.Handler
	// MaxConnections and MaxPerSession limit the live connections of all browsers
	// and of one. Default: DefaultMaxConnections and DefaultMaxPerSession.
	MaxConnections int
	MaxPerSession  int

	// Heartbeat finds visitors whose network is gone or who do not read. Default:
	// that of wsconn.
	Heartbeat wsconn.Heartbeat
	// CloseOver is the time over which Shutdown closes connections, one after the other, so
	// that their pages do not reconnect all at once. Default: a second.
	CloseOver time.Duration
}
