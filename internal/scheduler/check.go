package scheduler

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"hpcc.dev/hpcc/internal/auth"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// Bounds on what clients and workers say.
const (
	// maxMessage is the largest message: a heartbeat with all that it may name
	// has 300 kB.
	maxMessage = 1 << 20
	// maxAvoid is how many workers one query may exclude.
	maxAvoid = schedulerv1.MaxAvoid
	// maxImages and maxSessions bound what one worker says it has. A machine
	// takes 128 MiB at least, and an image hundreds.
	maxImages   = 1000
	maxSessions = 1000
	// maxCapacity is beyond any host; no sum of loads overflows.
	maxCapacity = 1 << 16
	maxLine     = 1 << 20
	maxVersion  = 64
	maxAddress  = 253 + len("[]:65535")
	maxPlatform = 64
)

func checkRoute(req *schedulerv1.RouteRequest) error {
	if err := auth.CheckImage(req.Image); err != nil {
		return err
	}
	if req.Platform != "" {
		if err := checkPlatform(req.Platform); err != nil {
			return err
		}
	}
	if len(req.Avoid) > maxAvoid {
		return fmt.Errorf("%d workers to avoid, more than %d", len(req.Avoid), maxAvoid)
	}
	for _, name := range req.Avoid {
		if err := auth.CheckName(name); err != nil {
			return fmt.Errorf("worker to avoid: %w", err)
		}
	}
	return nil
}

// checkHeartbeat also returns the worker's pin.
func checkHeartbeat(req *schedulerv1.HeartbeatRequest) (auth.Pin, error) {
	var none auth.Pin
	if err := auth.CheckName(req.Worker); err != nil {
		return none, fmt.Errorf("worker: %w", err)
	}
	if err := checkAddress(req.Address); err != nil {
		return none, err
	}
	pin, err := auth.PinFromBytes(req.TlsPin)
	if err != nil {
		return none, err
	}
	if err := checkPlatform(req.Platform); err != nil {
		return none, err
	}
	if len(req.Version) > maxVersion || strings.ContainsFunc(req.Version, notPlain) {
		return none, fmt.Errorf("the version is not at most %d printable ASCII characters", maxVersion)
	}
	switch {
	case req.Capacity < 1 || req.Capacity > maxCapacity:
		return none, fmt.Errorf("a capacity of %d: must be from 1 to %d", req.Capacity, maxCapacity)
	case req.Running > maxLine || req.Queued > maxLine:
		return none, fmt.Errorf("%d running and %d queued: more than %d", req.Running, req.Queued, maxLine)
	case len(req.Images) > maxImages:
		return none, fmt.Errorf("%d images, more than %d", len(req.Images), maxImages)
	case len(req.Sessions) > maxSessions:
		return none, fmt.Errorf("%d sessions, more than %d", len(req.Sessions), maxSessions)
	}
	for _, image := range req.Images {
		if err := auth.CheckImage(image); err != nil {
			return none, err
		}
	}
	for _, s := range req.Sessions {
		if err := auth.CheckName(s.GetTenant()); err != nil {
			return none, fmt.Errorf("session's tenant: %w", err)
		}
		if err := auth.CheckImage(s.GetImage()); err != nil {
			return none, fmt.Errorf("session: %w", err)
		}
	}
	return pin, nil
}

// checkAddress takes host:port. Clients will dial it, with the worker's pin, so
// that a wrong one is a failure and nothing worse.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		var n int
		n, err = strconv.Atoi(port)
		if n < 1 || n > 65535 || host == "" || len(s) > maxAddress || strings.ContainsFunc(s, notPlain) || strings.ContainsAny(host, "/@") {
			err = errors.New("not host:port")
		}
	}
	if err != nil {
		return errors.New("the address is not host:port")
	}
	return nil
}

// checkPlatform takes OS/ARCHITECTURE, with /VARIANT perhaps.
func checkPlatform(s string) error {
	parts := strings.Split(s, "/")
	ok := len(s) <= maxPlatform && (len(parts) == 2 || len(parts) == 3)
	for _, p := range parts {
		ok = ok && p != "" && strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
	}
	if !ok {
		return errors.New("the platform is none, such as linux/amd64")
	}
	return nil
}

func notPlain(r rune) bool { return r <= ' ' || r > '~' }
