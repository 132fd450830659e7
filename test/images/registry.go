package images

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// User and Password are what a registry with a login takes.
const User, Password = "tester", "secret"

// passwords is the password file: bcrypt, of Password.
const passwords = User + ":$2b$04$igS3rZpGk1lQHKXIb5czrOtex4GM101qydLkBR2BoxykZpsil.IqW\n"

// Registry is Debian's docker-registry on a loopback port of its own.
type Registry struct {
	// Addr is host and port; it speaks plain HTTP.
	Addr string
	cmd  *exec.Cmd
	log  string
}

// StartRegistry runs a registry that keeps its files in dir and, with login,
// answers only who knows User and Password. The caller stops it.
func StartRegistry(ctx context.Context, dir string, login bool) (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{Addr: l.Addr().String(), log: filepath.Join(dir, "log")}
	l.Close() // and hope that nobody takes it: the registry cannot be told "any"
	config := fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), r.Addr)
	if login {
		config += fmt.Sprintf("auth:\n  htpasswd: {realm: test, path: %q}\n", filepath.Join(dir, "passwords"))
		if err := os.WriteFile(filepath.Join(dir, "passwords"), []byte(passwords), 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	out, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r.cmd = exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	r.cmd.Stdout, r.cmd.Stderr = out, out
	// Not even a test that runs out of time leaves it behind.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: run make setup", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			return r, nil
		}
		if ctx.Err() != nil {
			r.Stop()
			text, _ := os.ReadFile(r.log)
			return nil, fmt.Errorf("docker-registry does not answer: %w\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends the registry.
func (r *Registry) Stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// Push copies an image into the registry, byte for byte, by skopeo, and returns
// its reference without a tag or digest.
func (r *Registry) Push(ctx context.Context, img Image, repository string, login bool) (string, error) {
	ref := r.Addr + "/" + repository
	args := []string{"--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"}
	if login {
		args = append(args, "--dest-creds="+User+":"+Password)
	}
	out, err := exec.CommandContext(ctx, "skopeo", append(args, "oci:"+img.Layout+":"+img.Tag, "docker://"+ref+":"+img.Tag)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("skopeo: %w\n%s", err, out)
	}
	return ref, nil
}
