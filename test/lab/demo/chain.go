//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hpcc.dev/hpcc/guest"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/test/images"
	"hpcc.dev/hpcc/test/lab"
)

// chain runs the whole of hpcc from nothing, with the programs in bin: see
// test/lab/demo/chain. Of lua's sources it builds units, or all.
func chain(ctx context.Context, dir, bin string, units []string) error {
	files := map[string]string{}
	for _, name := range []string{"hpcc", "hpccd", "hpcc-jail"} {
		files["bin/"+name] = filepath.Join(bin, name)
	}
	say("1. Guest kit: a kernel, hpcc-agent as its first process")
	kit, err := lab.Kit(ctx, filepath.Join(bin, "hpcc-agent"))
	if err != nil {
		return err
	}
	if err := addKit(files, kit, dir); err != nil {
		return err
	}
	say("2. Image: gcc, made by mmdebstrap, as one verified ext4 file (hpcc image build)")
	img, err := images.GCC(ctx)
	if err != nil {
		return err
	}
	root, err := buildImage(ctx, filepath.Join(bin, "hpccd"), img, filepath.Join(dir, "images"))
	if err != nil {
		return err
	}
	if err := addTree(files, "worker/images", filepath.Join(dir, "images")); err != nil {
		return err
	}
	if err := addSources(ctx, files, filepath.Join(dir, "lua")); err != nil {
		return err
	}
	if err := addMake(ctx, files); err != nil {
		return err
	}
	if files["firecracker"], files["jailer"], err = lab.Firecracker(ctx); err != nil {
		return err
	}
	program, err := lab.BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/demo/chain")
	if err != nil {
		return err
	}
	say("3. A place where Firecracker works, without a network")
	return run(ctx, lab.Job{
		Program: program, Args: append([]string{"-image", root}, units...), Files: files, Timeout: 45 * time.Minute,
	})
}

// buildImage has hpcc make an image's root file system, in dir, and returns the
// image's digest.
func buildImage(ctx context.Context, hpccd string, img images.Image, dir string) (string, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, hpccd, "image", "build", "--dir", dir, "--json", "--layout", img.Layout, img.Tag)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hpcc image build: %w", err)
	}
	var built struct {
		Digest   string `json:"digest"`
		Size     int64  `json:"size"`
		RootHash string `json:"root_hash"`
	}
	if err := json.Unmarshal(out, &built); err != nil {
		return "", fmt.Errorf("hpcc image build printed %q: %w", out, err)
	}
	say("   %.19s…, %d MB in %.1f s, root hash %.12s…", built.Digest, built.Size>>20, time.Since(began).Seconds(), built.RootHash)
	return built.Digest, nil
}

// addKit makes a guest kit the one in use below guest.
func addKit(files map[string]string, kit *guest.Kit, dir string) error {
	at := filepath.Dir(kit.Kernel)
	key, err := digest.ParseKey(filepath.Base(at))
	if err != nil {
		return err
	}
	if err := guest.Use(dir, &guest.Kernel{Key: key}, kit); err != nil {
		return err
	}
	files["guest/kit.json"] = filepath.Join(dir, "kit.json")
	files["guest/initrd/"+filepath.Base(kit.Initrd)] = kit.Initrd
	for _, name := range []string{"vmlinux", "kernel.json"} {
		files["guest/kernel/"+key.String()+"/"+name] = filepath.Join(at, name)
	}
	return nil
}

// addTree adds the files below dir, below the name as.
func addTree(files map[string]string, as, dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		files[filepath.Join(as, rel)] = p
		return err
	})
}

// addSources adds lua's sources and makefile, as Debian has them.
func addSources(ctx context.Context, files map[string]string, dir string) error {
	out, err := exec.CommandContext(ctx, "scripts/fetch-source", "lua5.4", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("scripts/fetch-source: %w\n%s", err, out)
	}
	// What debian/rules writes before it calls make.
	header := "#ifndef _LUA_DEB_MULTIARCH_\n#define _LUA_DEB_MULTIARCH_\n#define DEB_HOST_MULTIARCH \"host\"\n#endif\n"
	if err := os.WriteFile(filepath.Join(dir, "src", "lua5.4-deb-multiarch.h"), []byte(header), 0o644); err != nil {
		return err
	}
	return addTree(files, "lua/src", filepath.Join(dir, "src"))
}

// addMake adds make and the libraries that it is linked with.
func addMake(ctx context.Context, files map[string]string) error {
	const program = "/usr/bin/make"
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", program, err)
	}
	for f := range strings.FieldsSeq(program + " " + string(out)) {
		if strings.HasPrefix(f, "/") {
			files["root"+f] = f
		}
	}
	return nil
}
