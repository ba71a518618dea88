package cluster_test

import (
	"context"
	"fmt"

	"realtime/internal/cluster"
	"realtime/internal/presence"
)

// Without Redis, a server is a cluster of one. Given the URL of a Redis, the same code
// counts across all servers.
func Example() {
	servers, err := cluster.New(cluster.Options{URL: ""})
	if err != nil {
		fmt.Println(err)
		return
	}
	others := 0
	counted := func(elsewhere int) { others = elsewhere }
	if err := servers.Start(context.Background(), counted, presence.New(presence.Options{}), func() {}); err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Leave(context.Background())
	for own := 1; own <= 3; own++ {
		servers.Count(own)
		fmt.Println(own+others, servers.Away())
	}
	// Output:
	// 1 false
	// 2 false
	// 3 false
}
