package site

import (
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzhttp"
)

// readOnly refuses everything but GET and HEAD.
func readOnly(next http.Handler) http.Handler {
	return takesOnly(next, http.MethodGet, http.MethodHead)
}

// takesOnly refuses all other methods.
func takesOnly(next http.Handler, methods ...string) http.Handler {
	allowed := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", allowed)
			http.Error(w, "This address takes only "+allowed+".", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// inFrame reports whether a request asks for a page as it is in a frame.
func inFrame(r *http.Request) bool { return r.URL.Query().Has("frame") }

// withPolicy tells browsers what pages may do: load from this server and talk to
// it. cdn is the origin of third-party files, if they are not served from here. Only
// the index may have frames, and only a page that is asked for as in a frame may be in
// one.
func withPolicy(cdn string, next http.Handler) http.Handler {
	loads := strings.TrimSpace("'self' " + cdn)
	policy := "default-src 'none'; script-src " + loads + "; style-src " + loads + "; img-src 'self' data:; " + // Pico draws its marks with data
		"connect-src 'self'; form-action 'self'; object-src 'none'; base-uri 'none'; "
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		frames := "frame-ancestors 'none'"
		switch {
		case r.URL.Path == "/":
			frames += "; frame-src 'self'"
		case inFrame(r):
			frames = "frame-ancestors 'self'"
		}
		h.Set("Content-Security-Policy", policy+frames)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store") // browser files have their own
		if visitOf(r.Context()).scheme == "https" {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// sameSiteOnly refuses forms from pages of other sites, except those in trusted. If a
// browser does not say whether a form crosses sites, its origin must be allowed, as that of
// a socket.
func sameSiteOnly(trusted []string, refusals refusals, next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	for _, origin := range trusted {
		protection.AddTrustedOrigin(origin) // takes every canonical one
	}
	deny := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refusals.add(r, ownOrigin(r), crossSite)
		http.Error(w, "Your form was not accepted: another site sent it.", http.StatusForbidden)
	})
	protection.SetDenyHandler(deny)
	protected := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("sec-fetch-site") == "" && !fromHere(r, trusted) {
			deny.ServeHTTP(w, r)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// compressed compresses answers where that is worth it.
func compressed(next http.Handler) http.Handler {
	wrap, _ := gzhttp.NewWrapper(gzhttp.CompressionLevel(7)) // fails only for a level that does not exist
	return wrap(next)
}
