package presence_test

import (
	"fmt"

	"realtime/internal/presence"
)

// Two tabs of one browser under one name are one user. The same name in another
// browser is another user.
func Example() {
	online := presence.New(presence.Options{})
	name, problem := presence.Name("  Alice ")
	fmt.Printf("%q %q\n", name, problem)

	online.Join("connection 1", presence.NewUser("cookie of one browser", name))
	online.Join("connection 2", presence.NewUser("cookie of one browser", name))
	online.Join("connection 3", presence.NewUser("cookie of another", name))
	fmt.Println(online.Count(), "users")

	count, users, _ := online.View("connection 3")
	fmt.Println(count, users[0].Name, users[0].You, users[1].Tabs)
	fmt.Println(online.Leave("connection 3"), online.Leave("connection 3"))
	// Output:
	// "Alice" ""
	// 2 users
	// 2 Alice true 2
	// true false
}
