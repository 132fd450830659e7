//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// nobody runs plain jobs: root's rights would hide what a compiler cannot open.
const nobody = 65534

// plainJobs run what the agent's jobs are, in the same machine and of the same
// image, without anything of the agent's: no namespaces, no filter, no control
// group, no record. There is a root of the same kind (an overlay on a tmpfs, of
// which the lower layer is the image), since a compiler wants one.
type plainJobs struct {
	mu      sync.Mutex
	mounted bool
}

const (
	plainImage = "/plain/image"
	plainStage = "/plain/stage"
	plainRoot  = plainStage + "/root"
)

func (p *plainJobs) run(stream agentv1.AgentService_ExecServer, h *agentv1.ExecHeader) error {
	// One at a time: they share the mount.
	p.mu.Lock()
	defer p.mu.Unlock()
	blobs, err := receive(stream, h)
	if err != nil {
		return err
	}
	if !p.mounted {
		if err := errors.Join(os.MkdirAll(plainImage, 0o755), os.MkdirAll(plainStage, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount("/dev/dm-0", plainImage, "ext4", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("the image: %w", err)
		}
		p.mounted = true
	}
	if err := unix.Mount("plain", plainStage, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(plainStage, unix.MNT_DETACH) }()
	defer func() { _ = unix.Unmount(plainRoot, unix.MNT_DETACH) }()
	if err := furnish(h, blobs); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(plainRoot+"/proc", unix.MNT_DETACH) }()
	return command(stream, h)
}

// receive asks for all files that the header names.
func receive(stream agentv1.AgentService_ExecServer, h *agentv1.ExecHeader) (map[string][]byte, error) {
	blobs := map[string][]byte{}
	var needed agentv1.Needed
	for _, in := range h.GetInputs() {
		key := string(in.GetDigest().GetSha256())
		if _, asked := blobs[key]; !asked && in.GetKind() == agentv1.Input_KIND_FILE && in.GetDigest().GetSize() > 0 {
			blobs[key] = nil
			needed.Blobs = append(needed.Blobs, in.GetDigest())
		}
	}
	if err := stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Needed{Needed: &needed}}); err != nil {
		return nil, err
	}
	for _, d := range needed.Blobs {
		var b []byte
		for int64(len(b)) < d.GetSize() {
			m, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			b = append(b, m.GetBlob()...)
		}
		blobs[string(d.GetSha256())] = b
	}
	return blobs, nil
}

func furnish(h *agentv1.ExecHeader, blobs map[string][]byte) error {
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(plainStage, dir), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("plain", plainRoot, "overlay", 0, "lowerdir="+plainImage+",upperdir="+plainStage+"/upper,workdir="+plainStage+"/work"); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	for _, dir := range []string{"proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(plainRoot, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(plainRoot+"/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := unix.Mount("proc", plainRoot+"/proc", "proc", 0, ""); err != nil {
		return err
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "urandom": 9} {
		if err := unix.Mknod(plainRoot+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return err
		}
		if err := os.Chmod(plainRoot+"/dev/"+name, 0o666); err != nil {
			return err
		}
	}
	for _, root := range h.GetRoots() {
		if err := ownDir(root, root); err != nil {
			return err
		}
	}
	for _, in := range h.GetInputs() {
		p := in.GetPath()
		if err := ownDir(agentv1.RootOf(h.GetRoots(), p), path.Dir(p)); err != nil {
			return err
		}
		var err error
		switch in.GetKind() {
		case agentv1.Input_KIND_FILE:
			err = os.WriteFile(plainRoot+p, blobs[string(in.GetDigest().GetSha256())], 0o644)
			err = errors.Join(err, os.Chmod(plainRoot+p, os.FileMode(in.GetMode())))
		case agentv1.Input_KIND_SYMLINK:
			err = os.Symlink(in.GetTarget(), plainRoot+p)
		case agentv1.Input_KIND_DIRECTORY:
			err = ownDir(agentv1.RootOf(h.GetRoots(), p), p)
		}
		if err = errors.Join(err, os.Lchown(plainRoot+p, nobody, nobody)); err != nil {
			return err
		}
	}
	return ownDir(agentv1.RootOf(h.GetRoots(), h.GetCwd()), h.GetCwd())
}

// ownDir makes a directory, and gives all of it from root on to nobody.
func ownDir(root, dir string) error {
	if err := os.MkdirAll(plainRoot+dir, 0o755); err != nil {
		return err
	}
	for ; root != "" && len(dir) >= len(root); dir = path.Dir(dir) {
		if err := os.Lchown(plainRoot+dir, nobody, nobody); err != nil {
			return err
		}
	}
	return nil
}

func command(stream agentv1.AgentService_ExecServer, h *agentv1.ExecHeader) error {
	var stdout, stderr bytes.Buffer
	cmd := &exec.Cmd{
		Path: program(h), Args: h.GetArgv(), Env: append(h.GetEnv(), "LC_ALL=C.UTF-8", "TZ=UTC"), Dir: h.GetCwd(), Stdout: &stdout, Stderr: &stderr,
		SysProcAttr: &syscall.SysProcAttr{Chroot: plainRoot, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
	}
	if slices.Contains(h.GetEnv(), "PUPPET=namespaces") {
		// Those that jobs get: what they cost by themselves.
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	}
	began := time.Now()
	err := cmd.Run()
	wall := time.Since(began)
	if cmd.ProcessState == nil {
		return err
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	result := &agentv1.ExecResult{Usage: &agentv1.Usage{
		WallMicros: wall.Microseconds(), UserMicros: cmd.ProcessState.UserTime().Microseconds(), SystemMicros: cmd.ProcessState.SystemTime().Microseconds()}}
	if status.Signaled() {
		result.Signal = int32(status.Signal())
	} else {
		result.ExitCode = int32(status.ExitStatus())
	}
	for _, s := range []struct {
		stream agentv1.Stdio_Stream
		from   *bytes.Buffer
	}{{agentv1.Stdio_STREAM_STDOUT, &stdout}, {agentv1.Stdio_STREAM_STDERR, &stderr}} {
		if err := tell(stream, s.stream, s.from.Bytes()); err != nil {
			return err
		}
	}
	for i, p := range h.GetOutputs() {
		st, err := os.Lstat(plainRoot + p)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		data, err := os.ReadFile(plainRoot + p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		result.Outputs = append(result.Outputs, &agentv1.OutputFile{Output: uint32(i), Mode: uint32(st.Mode().Perm()),
			Digest: &agentv1.Digest{Sha256: sum[:], Size: int64(len(data))}})
		for r := bytes.NewReader(data); ; {
			b := make([]byte, agentv1.ChunkSize)
			n, err := io.ReadFull(r, b)
			if n > 0 || len(data) == 0 {
				if err := stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Output{Output: &agentv1.OutputChunk{Output: uint32(i), Data: b[:n]}}}); err != nil {
					return err
				}
			}
			if err != nil {
				break
			}
		}
	}
	return stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Result{Result: result}})
}

// program finds argv[0] in PATH, in the job's root.
func program(h *agentv1.ExecHeader) string {
	name := h.GetArgv()[0]
	if strings.Contains(name, "/") {
		return name
	}
	for _, e := range h.GetEnv() {
		if dirs, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, dir := range filepath.SplitList(dirs) {
				if _, err := os.Stat(filepath.Join(plainRoot, dir, name)); err == nil {
					return filepath.Join(dir, name)
				}
			}
		}
	}
	return name
}
