package listen_test

import (
	"fmt"
	"os"
	"path/filepath"

	"realtime/internal/listen"
)

func Example() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	address := "unix:" + filepath.Join(dir, "app.sock")
	listener, err := listen.Listen(address)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()
	fmt.Println(listen.Banner(address, listener, false, os.Stdout) == "Listening on "+address+"\n")
	_, err = listen.Listen(address)
	fmt.Println(err == nil)
	// Output:
	// true
	// false
}
