// Command dev is make dev: whenever a file of the program is saved, it builds the program and
// starts it again, and the open pages become new. It is a proxy in front of the program, so that
// pages hear of builds even while no program runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"realtime/internal/listen"
)

const (
	program = "bin/realtime"
	socket  = "bin/dev.sock" // where the program listens
	counts  = "bin/counts-dev"
	pause   = 150 * time.Millisecond // between two looks at the files
)

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	l, err := listen.Listen(*addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "dev:", listen.Advise(err, "make dev ADDR=localhost:8081"))
		os.Exit(1)
	}
	fmt.Print(listen.Banner(*addr, l, false, os.Stdout))
	fmt.Println("Save a file of the program: it is built again, and open pages become new.")
	p := newPages()
	go http.Serve(l, p.handler())
	watch(ctx, p)
}

// watch builds and starts the program, and does so again whenever its files have changed, until
// ctx ends. A file may still be written, so it waits until all stay the same for a moment.
func watch(ctx context.Context, p *pages) {
	stop := func() {}
	for built, last := "", ""; ctx.Err() == nil; {
		now := files()
		if now == last && now != built {
			built = now
			if build(ctx, p) {
				stop()
				stop = start(ctx, p)
			}
		}
		last = now
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	stop()
}

// ignored matches what is no part of the program, and what editors leave for a moment.
var ignored = regexp.MustCompile(`^(bin|docs|e2e|internal/dev|internal/visitor|static/node_modules)$|(^|/)\.[^/]+$|_test\.go$|\.md$|~$`)

// files lists the files of the program, with what changes when one is saved.
func files() string {
	var list strings.Builder
	filepath.WalkDir(".", func(path string, entry fs.DirEntry, _ error) error {
		info, err := os.Stat(path)
		switch {
		case err != nil: // it was removed meanwhile
		case ignored.MatchString(path) && info.IsDir():
			return fs.SkipDir
		case !ignored.MatchString(path) && !info.IsDir():
			fmt.Fprintln(&list, path, info.Size(), info.ModTime())
		}
		return nil
	})
	return list.String()
}

// build builds the program, and reports whether that worked. If not, the old one goes on.
func build(ctx context.Context, p *pages) bool {
	p.say("The server is being built…")
	began := time.Now()
	err := command(ctx, os.Interrupt, "go", "build", "-o", program, ".").Run()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.say("The build failed: see the terminal.")
	default:
		fmt.Printf("Built in %.1f s.\n", time.Since(began).Seconds())
	}
	return err == nil
}

// start starts the program, and returns how to stop it. Once it listens it prints that, and
// pages become new.
func start(ctx context.Context, p *pages) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	// A terminal sends INT itself, and the second of two ends the program at once. HUP never does.
	cmd := command(ctx, syscall.SIGHUP, program, "-addr", "unix:"+socket, "-trust-proxy", "-drain", "1ms", "-data", counts)
	cmd.Stdout = onWrite(func() { p.become(strconv.FormatInt(time.Now().UnixNano(), 36)) })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := cmd.Run(); ctx.Err() == nil {
			fmt.Println(err)
			p.say("The server has ended: see the terminal.")
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// command returns a command that a signal stops when ctx ends.
func command(ctx context.Context, stop os.Signal, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(stop) }
	cmd.WaitDelay = 10 * time.Second // then it is killed
	return cmd
}

type onWrite func()

func (f onWrite) Write(text []byte) (int, error) { f(); return len(text), nil }
