//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// flags are arguments, by name and in order.
type flags []struct{ name, value string }

func parse(args []string) (fs flags) {
	for i := 0; i < len(args); i++ {
		name, value, bound := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !bound && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			value = args[i]
		} else if !bound {
			value = "true"
		}
		fs = append(fs, struct{ name, value string }{name, value})
	}
	return fs
}

func (fs flags) get(name string) string {
	for _, f := range slices.Backward(fs) {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// without are the arguments but some.
func (fs flags) without(names ...string) (args []string) {
	for _, f := range fs {
		if !slices.Contains(names, f.name) {
			args = append(args, "--"+f.name+"="+f.value)
		}
	}
	return args
}

// free is a port that was free a moment ago.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// node is the binary of both.
func node() string {
	self, err := os.Executable()
	if err != nil {
		return "node"
	}
	return filepath.Join(filepath.Dir(self), "node")
}

func start(log *os.File, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(node(), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// toMembers are the flags that a gateway does not take, or that only one of the two may have.
var toMembers = []string{
	"initial-cluster", "initial-cluster-state", "initial-cluster-token", "initial-advertise-peer-urls", "listen-peer-urls", "wal-dir", "discovery-token",
	"discovery-endpoints", "discovery-srv", "initial-ranges", "initial-split-keys", "data-dir", "listen-metrics-urls", "listen-client-http-urls",
}

func run(args []string) (code int, err error) {
	fs := parse(args)
	urls := fs.get("listen-client-urls")
	if urls == "" { // a subcommand, or it is to say what is wrong
		cmd := exec.Command(node(), args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return wait(cmd)
	}
	address, err := free()
	if err != nil {
		return 0, err
	}
	scheme, _, _ := strings.Cut(urls, "://")
	var join []string
	for _, m := range strings.Split(fs.get("initial-cluster"), ",") {
		if _, url, named := strings.Cut(m, "="); named {
			join = append(join, url)
		}
	}
	log, err := os.Create(filepath.Clean(fs.get("data-dir")) + ".log")
	if err != nil {
		return 0, err
	}
	member, err := start(log, append(fs.without("listen-client-urls"), "--listen-client-urls="+scheme+"://"+address)...)
	if err != nil {
		return 0, err
	}
	gateway, err := start(os.Stderr, append(fs.without(toMembers...), "--role=gateway", "--member-list=members", "--join="+strings.Join(join, ","))...)
	if err != nil {
		return 0, errors.Join(err, member.Process.Kill())
	}
	return wait(gateway, member)
}

// wait passes signals on until all have ended, and tells how the first one to end did.
func wait(all ...*exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	codes := make(chan int, len(all))
	for _, cmd := range all {
		go func() {
			_ = cmd.Wait() // its code says it
			codes <- cmd.ProcessState.ExitCode()
		}()
	}
	for {
		select {
		case sig := <-signals:
			for _, cmd := range all {
				_ = cmd.Process.Signal(sig) // it may have ended
			}
		case code := <-codes:
			for _, cmd := range all {
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
			for range all[1:] {
				<-codes
			}
			return code, nil
		}
	}
}

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "behind:", err)
		code = 1
	}
	os.Exit(code)
}
