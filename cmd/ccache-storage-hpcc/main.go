//go:build unix

// Ccache-storage-hpcc lets ccache (4.13 or newer) keep its results in a store of
// hpcc's, a bucket or a directory, as ccache's remote storage. ccache starts it by
// its name for a remote_storage of hpcc://…, one for each URL and user, and talks
// to it over a Unix socket:
//
//   - settings.go: what the environment says
//   - protocol.go: what goes over the socket
//   - serve.go: clients, and what is done for them
//
// Values are ccache's own: hpcc's daemon never reads them, nor ccache hpcc's
// results. Nor are they signed: who may write below ccache's tenant can give its
// users any object (docs/ccache.md).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/tiers"
)

// Version is set by the build.
var Version = "dev"

const help = `Keeps ccache's results in a bucket or a directory. Not called by hand: put it
beside ccache or into PATH, and into ccache's configuration

  remote_storage = hpcc://BUCKET @endpoint=http://HOST:PORT @path-style=true
  remote_storage = hpcc:///DIRECTORY

Attributes: tenant, prefix, region, endpoint, profile, path-style, auto-create,
sse, kms-key, encryption-key-file, read-timeout, write-timeout.
`

func main() {
	f := flag.NewFlagSet("ccache-storage-hpcc", flag.ExitOnError)
	f.Usage = func() { fmt.Fprint(f.Output(), help) }
	shown := f.Bool("version", false, "print the version")
	_ = f.Parse(os.Args[1:])
	switch {
	case *shown:
		fmt.Fprintln(os.Stdout, "ccache-storage-hpcc "+Version)
		return
	case f.NArg() > 0:
		fmt.Fprintf(os.Stderr, "ccache-storage-hpcc: unexpected argument %q\n", f.Arg(0))
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Getenv)
	cancel()
	if err != nil {
		fmt.Fprintf(os.Stderr, "ccache-storage-hpcc: %v\n", err)
		os.Exit(1)
	}
}

// doomed bounds how long a server stays whose settings are wrong, so that they
// count soon after they were mended.
const doomed = 10 * time.Second

// run serves at the endpoint until it is told to stop or nobody needs it.
func run(ctx context.Context, getenv func(string) string) error {
	path, idle, err := endpoint(getenv)
	if err != nil {
		return err
	}
	// First: ccache waits for the socket.
	l, err := listen(path)
	if err != nil {
		return err
	}
	b := open(getenv)
	if b.broken != nil && (idle == 0 || idle > doomed) {
		idle = doomed
	}
	err = newServer(b).serve(ctx, l, idle)
	if b.store != nil {
		_ = b.store.Close()
	}
	return err
}

// open opens the store, which has its time-outs and is left alone while it is away.
// It is asked nothing yet.
func open(getenv func(string) string) backend {
	tier, tenant, err := place(getenv)
	if err != nil {
		return backend{broken: err}
	}
	s, err := tiers.OpenTier(&tier, nil)
	if err != nil {
		return backend{broken: err}
	}
	return backend{tenant: tenant, store: s}
}

// listen makes the socket, which only its owner may use. One at which nobody
// listens any more gives way. It changes the process's umask while it runs.
func listen(path string) (*net.UnixListener, error) {
	// A directory of the store may be for other users, too.
	defer syscall.Umask(syscall.Umask(0o077))
	address := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if info, err := os.Lstat(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is no socket", path)
	}
	if c, err := net.DialUnix("unix", nil, address); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: another program serves there", path)
	} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.ListenUnix("unix", address)
}
