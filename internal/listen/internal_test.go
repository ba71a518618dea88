package listen

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// 198.51.100.1 stands for an address that this machine does not have, such as ::1 where IPv6
// is switched off.
func TestOnAll_SkipsWhatThisMachineDoesNotHave(t *testing.T) {
	for _, hosts := range [][]string{{"198.51.100.1", "127.0.0.1"}, {"127.0.0.1", "198.51.100.1"}} {
		listeners, err := onAll(hosts, "0")
		require.NoError(t, err)
		assert.Len(t, listeners, 1)
		listeners[0].Close()
	}
	_, err := onAll([]string{"198.51.100.1", "203.0.113.1"}, "0")
	assert.ErrorContains(t, err, "cannot assign requested address")
}
