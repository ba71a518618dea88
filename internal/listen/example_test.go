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
	listener, err := listen.On(address)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()
	fmt.Println(listen.Says(address, listener) == "Listening on "+address)
	_, err = listen.On(address)
	fmt.Println(err == nil)
	// Output:
	// true
	// false
}
