package main

import (
	"os"
	"os/signal"
	"syscall"

	"pontoon/internal/config"
	"pontoon/internal/tuning"
)

func main() {
	raiseFileLimit() // each range holds files
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	os.Exit(run(os.Args[1:], config.FromProcess(), signals, tuning.Relax, startServer))
}
