package main

import (
	"context"
	"errors"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

// services is what the commands ask of the rest of hpcc. Tests put fakes in.
type services struct {
	// readStats asks a running daemon, or reads what the last one left.
	readStats func(*config.Config) (*daemon.Stats, error)
	zeroStats func(*config.Config) error
	// explain answers errNeverCompiled for a file of which there is no record.
	explain func(c *config.Config, file string) (*daemon.Explanation, error)
	clean   func(context.Context, *config.Config, daemon.CleanOptions) (*daemon.CleanReport, error)
	// serve runs the daemon until ctx ends, and has finished what was under
	// way when it returns. It calls ready once it answers.
	serve func(ctx context.Context, c *config.Config, ready func(addr string)) error
	// commands says what hpcc would run for a compiler call that misses, as
	// argument lists, in order.
	commands func(ctx context.Context, c *config.Config, argv []string) ([][]string, error)
}

// errNeverCompiled says that hpcc has no record of a file.
var errNeverCompiled = errors.New("hpcc has no record of a compile of it")

// wired is what the shipped program uses.
var wired = services{}
