package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/wrapper"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// compileOnce carries out one compile without a daemon, against the same disk
// cache: what hpcc becomes when no daemon serves it. args are those behind
// `hpccd compile`: [--show-command] -- COMPILER ARGS…. It returns the exit
// code, unless the process becomes the compiler.
func compileOnce(args []string) int {
	show := len(args) > 0 && args[0] == "--show-command"
	if show {
		args = args[1:]
	}
	if i := slices.Index(args, "--"); i != 0 || len(args) < 2 {
		fmt.Fprintln(os.Stderr, "hpcc: compile is hpcc's own command; use: hpcc wrap COMPILER ARGS…")
		return 2
	}
	args = args[1:]
	// Where the build limits the size of files, the compiler is to say so: not
	// caught, the signal would end this program first.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGXFSZ)
	runner := wrapper.NewRunner()
	req, missing := runner.Request(args)
	if req == nil {
		fmt.Fprintf(os.Stderr, "hpcc: %s: %s\n", args[0], missing)
		return 127
	}
	req.ShowCommand = show
	cfg, msg, err := lead(runner, req)
	switch {
	case err != nil && mayNot(cfg):
		fmt.Fprintf(os.Stderr, "hpcc: %s: not compiled: %s\n", args[0], err)
		return 1
	case err != nil && missing == nil:
		// A build never fails because of its cache.
		dir, _ := config.Dir(os.LookupEnv)
		wrapper.NoteNoCache(dir, err)
	case err != nil:
	case msg.Done != nil:
		return runner.Finish(args, msg.Done)
	case msg.Run != nil:
		return runner.Show(msg.Run.Args)
	}
	if missing != nil {
		fmt.Fprintf(os.Stderr, "hpcc: %s: %s\n", args[0], missing)
		return 127
	}
	if show {
		return runner.Show(args)
	}
	return runner.Exec(args)
}

// lead has an engine of this process lead the compile.
func lead(runner *wrapper.Runner, req *ipcv1.Compile) (*config.Config, *ipcv1.ServerMessage, error) {
	cfg, err := config.Load()
	if err != nil {
		return nil, nil, err
	}
	// stderr is the build's: what hpcc logs does not belong there unless somebody
	// has asked for it.
	log := slog.New(slog.DiscardHandler)
	if cfg.IsSet("log.level") {
		log = newLogger(cfg.Log, os.Stderr)
	}
	engine, err := openEngine(cfg, false, log)
	if err != nil {
		return cfg, nil, err
	}
	msg := engine.Compile(context.Background(), req, local{runner})
	engine.Close()
	if engine.Mismatched() {
		ask(cfg, "forget") // a daemon elsewhere may have the wrong result in memory
	}
	return cfg, msg, nil
}

// local runs an engine's commands in this process's own place.
type local struct{ runner *wrapper.Runner }

func (l local) Run(_ context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	return l.runner.Run(run), nil
}
