package presence_test

import (
	"fmt"
	"html/template"

	"realtime/internal/presence"
)

// Two tabs of one browser under one name are one user. The same name in another
// browser is another user.
func Example() {
	row := template.Must(template.New("").Parse("({{.Name}}{{if .You}}, you{{end}}{{if gt .Tabs 1}} in {{.Tabs}} tabs{{end}})"))
	online := presence.New(presence.Options{Row: row})
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
