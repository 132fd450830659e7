package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/guest"
)

func (a *app) newGuest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Build the guest kit, or show which is in use",
		Long: `The guest kit is what a virtual machine runs before any image is there: a Linux
kernel, and an initramfs with hpcc-agent as its first process. hpcc's own kernel
has no modules, no IP stack and no network drivers; a distribution's kernel
serves as well where no other is allowed.

A kit lies in a directory of its own, ~/.cache/hpcc-guest unless --dir names
another. Kernels are kept there by what they were made from, so that a kernel is
built once.`,
		Example: `  hpcc guest build
  hpcc guest info`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc guest --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newGuestBuild(), a.newGuestInfo())
	return cmd
}

// guestDir is where the kit lies, if the flag --dir does not say.
func guestDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", withHint(err, "name a directory by --dir")
	}
	return filepath.Join(dir, "hpcc-guest"), nil
}

func (a *app) newGuestBuild() *cobra.Command {
	var dir, agent, source, root, version string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build kernel and initramfs, and put them to use",
		Long: `Build makes the kernel from a tar archive of Linux 6.1 (by default that of
Debian's package linux-source-6.1), which takes some minutes once, and the
initramfs from hpcc-agent, and makes them the kit in use. Equal sources,
compilers and agents give equal files, byte for byte.

With --distribution, the kernel is one of a distribution's own packages, which
was installed or unpacked below that directory, with the modules it needs.
Such a kernel has an IP stack, which finds no device; and, unless the
distribution enables it, no VMGENID, so that machines restored from one snapshot
are told apart by what the host sends them only.`,
		Example: `  apt-get install linux-source-6.1 libelf-dev && hpcc guest build
  apt-get download linux-image-6.1.0-50-cloud-amd64
  dpkg-deb --extract linux-image-*.deb kernel && hpcc guest build --distribution kernel`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := guestDir(dir)
			if err != nil {
				return err
			}
			if version != "" && root == "" {
				return usage{withHint(errors.New("--kernel-version belongs to --distribution"), "see hpcc guest build --help")}
			}
			if agent == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				agent = filepath.Join(filepath.Dir(self), "hpcc-agent")
			}
			if _, err := os.Stat(agent); err != nil {
				return withHint(fmt.Errorf("the agent is missing: %w", err), "hpcc-agent is installed beside hpccd; --agent names another place")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			var k *guest.Kernel
			if root != "" {
				k, err = guest.UnpackKernel(ctx, dir, root, version)
			} else {
				started := time.Now()
				k, err = guest.BuildKernel(ctx, dir, source, func(what string) {
					a.note("%s", what)
				})
				if took := time.Since(started); err == nil && took > time.Minute {
					a.note("built the kernel in %s", took.Round(time.Second))
				}
			}
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted; nothing was changed")
			}
			if err != nil {
				return err
			}
			kit, err := guest.Assemble(dir, k, agent)
			if err != nil {
				return err
			}
			if err := guest.Use(dir, k, kit); err != nil {
				return err
			}
			return a.printKit(kit, k, asJSON)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where kits lie (default ~/.cache/hpcc-guest)")
	cmd.Flags().StringVar(&agent, "agent", "", "the program for /init (default hpcc-agent beside hpccd)")
	cmd.Flags().StringVar(&source, "source", guest.DefaultSource, "tar archive of Linux 6.1")
	cmd.Flags().StringVar(&root, "distribution", "", "take the kernel of a distribution's package unpacked in this directory")
	cmd.Flags().StringVar(&version, "kernel-version", "", "which of several kernels there")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) newGuestInfo() *cobra.Command {
	var dir string
	var config, asJSON bool
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the guest kit in use",
		Long: `Info reads kernel and initramfs of the kit in use, checks their digests, and
shows what they were made from. With --config it prints the kernel's
configuration instead.`,
		Example: `  hpcc guest info
  hpcc guest info --json | jq -r .kernel.digest
  hpcc guest info --config | grep CONFIG_INET`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := guestDir(dir)
			if err != nil {
				return err
			}
			kit, k, err := guest.Open(dir)
			if err != nil {
				return withHint(err, "build one: hpcc guest build")
			}
			if config {
				text, err := k.Config()
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(text)
				return err
			}
			return a.printKit(kit, k, asJSON)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where kits lie (default ~/.cache/hpcc-guest)")
	cmd.Flags().BoolVar(&config, "config", false, "print the kernel's configuration")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) printKit(kit *guest.Kit, k *guest.Kernel, asJSON bool) error {
	type file struct {
		Path   string `json:"path"`
		Digest string `json:"digest"` // sha256:…
		Size   int64  `json:"size"`
	}
	v := struct {
		Kernel struct {
			file
			Version  string   `json:"version"`
			Kind     string   `json:"kind"`
			Source   string   `json:"source"`
			Compiler string   `json:"compiler,omitempty"`
			Modules  []string `json:"modules"`
		} `json:"kernel"`
		Initrd struct {
			file
			Agent string `json:"agent"` // digest of /init
		} `json:"initrd"`
		BootArgs string `json:"boot_args"`
	}{BootArgs: kit.BootArgs}
	v.Kernel.file = file{kit.Kernel, "sha256:" + kit.KernelDigest.Hex(), kit.KernelDigest.Size()}
	v.Kernel.Version, v.Kernel.Kind, v.Kernel.Source, v.Kernel.Compiler = k.Version, k.Kind, k.Source, k.Compiler
	v.Kernel.Modules = append([]string{}, k.Modules...) // [] rather than null
	v.Initrd.file = file{kit.Initrd, "sha256:" + kit.InitrdDigest.Hex(), kit.InitrdDigest.Size()}
	v.Initrd.Agent = "sha256:" + kit.AgentDigest.Hex()
	if asJSON {
		return a.printJSON(v)
	}
	t := a.newTable()
	t.row("kernel", k.Version)
	t.row("kernel kind", k.Kind)
	t.row("kernel digest", v.Kernel.Digest)
	t.row("kernel size", a.size(v.Kernel.Size))
	t.row("kernel path", kit.Kernel)
	t.row("kernel source", k.Source)
	if k.Compiler != "" {
		t.row("kernel compiler", k.Compiler)
	}
	if len(k.Modules) > 0 {
		t.row("kernel modules", strconv.Itoa(len(k.Modules)), strings.Join(k.Modules, " "))
	}
	t.row("initrd digest", v.Initrd.Digest)
	t.row("initrd size", a.size(v.Initrd.Size))
	t.row("initrd path", kit.Initrd)
	t.row("agent digest", v.Initrd.Agent)
	t.row("boot arguments", kit.BootArgs)
	return t.flush()
}
