package cluster_test

import (
	"context"
	"fmt"

	"realtime/internal/cluster"
)

// A server without Redis is a cluster of one. With the URL of a Redis, the same
// lines count on all servers.
func Example() {
	servers, err := cluster.New(cluster.Options{URL: ""})
	if err != nil {
		fmt.Println(err)
		return
	}
	servers.OnCounter(func(total int) { fmt.Println("another server has counted:", total) })
	if err := servers.Start(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	defer servers.Close()
	for range 3 {
		total, err := servers.Increment()
		fmt.Println(total, err, servers.Away())
	}
	// Output:
	// 1 <nil> false
	// 2 <nil> false
	// 3 <nil> false
}
