package presence_test

import (
	"fmt"
	"html/template"

	"realtime/internal/presence"
)

// Two tabs of one browser under one name are one user. The same name in another
// browser is another user.
func Example() {
	online := presence.New(presence.Options{Row: func(u presence.Listed) template.HTML {
		name := template.HTMLEscapeString(u.Name)
		if u.You {
			return template.HTML("(" + name + ", you)")
		}
		return template.HTML(fmt.Sprintf("(%s in %d tabs)", name, u.Tabs))
	}})
	name, problem := presence.Name("  Alice ")
	fmt.Printf("%q %q\n", name, problem)

	online.Join("connection 1", presence.NewUser("cookie of one browser", name))
	online.Join("connection 2", presence.NewUser("cookie of one browser", name))
	online.Join("connection 3", presence.NewUser("cookie of another", name))
	fmt.Println(online.Count(), "users")

	count, list := online.View("connection 3")
	fmt.Println(count, list.You, list.Before)
	fmt.Println(online.Leave("connection 3"), online.Leave("connection 3"))
	// Output:
	// "Alice" ""
	// 2 users
	// 2 (Alice, you) (Alice in 2 tabs)
	// true false
}
