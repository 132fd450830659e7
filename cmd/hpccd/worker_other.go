//go:build !linux

package main

import (
	"context"
	"errors"
	"log/slog"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/vm"
)

var errNoMachines = errors.New("workers run on Linux")

func newRuntime(context.Context, *config.Worker, *slog.Logger) (vm.Runtime, error) {
	return nil, errNoMachines
}

func cloneDrive(string, string) error { return errNoMachines }

func keepPrivate() {}
