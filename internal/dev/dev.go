//go:build unix

// Command dev is make dev: whenever a file of the program is saved, it builds the program and
// starts it again, and the open pages become new. It is a proxy in front of the program, so that
// pages hear of builds even while no program runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"realtime/internal/listen"
)

const (
	program = "bin/realtime"
	socket  = "bin/dev.sock" // where the program listens
)

// watcher runs air, which prints a line at the start and whenever a file of the program was
// saved. It does not build: a build must end with make dev, and the old program go on if it
// fails.
var watcher = []string{"go", "run", "github.com/air-verse/air@v1.67.4", "-log.silent=true", "-tmp_dir=bin",
	"-build.cmd=echo saved", "-build.full_bin=true", "-build.delay=100",
	"-build.include_ext=go,mod,sum,tmpl,css,js,svg,json,lua", `-build.exclude_regex=_test\.go$,/\.[^/]*$`,
	"-build.exclude_dir=docs,e2e,internal/dev,internal/visitor,static/node_modules"}

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
	if ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "dev: air, which watches the files, has ended. Its first start needs the network.")
		os.Exit(1)
	}
}

// watch builds and starts the program, and does so again whenever a file was saved, until ctx
// or the watcher ends.
func watch(ctx context.Context, p *pages) {
	p.say("Waiting for air, which watches the files…")
	air := command(ctx, watcher...)
	saves, _ := air.StdoutPipe() // fails only for a command that has begun
	if air.Start() != nil {
		return
	}
	stop := func() {}
	for all := make([]byte, 512); ; { // reads all saves during a build at once: they need one more
		if _, err := saves.Read(all); err != nil {
			break
		}
		if build(ctx, p) {
			stop()
			stop = start(ctx, p)
		}
	}
	stop()
	air.Wait()
}

// build builds the program, and reports whether that worked. If not, the old one goes on.
func build(ctx context.Context, p *pages) bool {
	p.say("The server is being built…")
	began := time.Now()
	err := command(ctx, "go", "build", "-o", program, ".").Run()
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
	cmd := command(ctx, program, "-addr", "unix:"+socket, "-trust-proxy", "-drain", "1ms", "-data", "bin/counts-dev")
	cmd.Stdout = onWrite(func() { p.change("", strconv.FormatInt(time.Now().UnixNano(), 36)) })
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

// command returns a command that ends when ctx does, with all that it has started, because go
// run passes no signal on. In a group of its own it hears of Ctrl-C once: a second one would
// cut the program short.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second // then it is killed
	return cmd
}

type onWrite func()

func (f onWrite) Write(text []byte) (int, error) { f(); return len(text), nil }
