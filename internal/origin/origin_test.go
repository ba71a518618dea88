package origin

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCanonical_RefusesWhatNoPageHas(t *testing.T) {
	for _, text := range []string{"", "example.com", "null", "*", "https://*.example.com", "https://", "https://x.example/path", "https://x.example?",
		"https://me@x.example", "wss://x.example", "https://bücher.example", "https://x.example:65536", "https://[fe80::1%25eth0]"} {
		_, err := Canonical(text)
		assert.ErrorContains(t, err, "want an origin such as https://example.com", text)
	}
	for text, want := range map[string]string{"https://x.example:0443": "https://x.example", "App://Local": "app://local",
		"HTTPS://Friend.Example:443/": "https://friend.example", "http://[2001:DB8:0::1]:80": "http://[2001:db8::1]"} {
		origin, err := Canonical(text)
		assert.NoError(t, err)
		assert.Equal(t, want, origin)
	}
}
