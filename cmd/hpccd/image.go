package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/internal/rootfs/registry"
)

// imageFlags are what all image commands take. Each can stand in the environment
// as well, where the flag wins: a worker's settings, which the workers' own file
// will hold too.
type imageFlags struct {
	dir, maxSize, platform string
	allow, mirrors         []string
	asJSON                 bool
}

func (a *app) newImage() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make root file systems for virtual machines from OCI images",
		Long: `An OCI image holds a toolchain; hpcc makes one file of it that a virtual machine
boots from: an ext4 file system and the dm-verity tree that the guest checks it
with. Every byte is checked against the image's digest, hostile layers are
refused, and one image gives the same file on every machine.

Settings, as flags or in the environment:
  HPCC_IMAGE_DIR        where the files are kept (the user's cache directory,
                        hpcc-images)
  HPCC_IMAGE_MAX_SIZE   when images are evicted, least recently used first (50GB)
  HPCC_IMAGE_PLATFORM   what images are for (linux and this machine's processor)
  HPCC_IMAGE_ALLOW      the only images to use: digests, repositories, or all
                        below a path (registry.example.com/toolchains/*),
                        separated by commas; every one, if it is not set
  HPCC_IMAGE_MIRRORS    what to ask before a registry: REGISTRY=MIRROR, separated
                        by commas (docker.io=mirror.example.com/hub)`,
		Example: `  hpcc image build registry.example.com/toolchains/gcc:12
  hpcc image list
  hpcc image remove sha256:4f53cda18c2baa0c`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	env := func(name string) (list []string) {
		for e := range strings.SplitSeq(os.Getenv(name), ",") {
			if e = strings.TrimSpace(e); e != "" {
				list = append(list, e)
			}
		}
		return list
	}
	p := cmd.PersistentFlags()
	p.StringVar(&f.dir, "dir", os.Getenv("HPCC_IMAGE_DIR"), "directory of the images")
	p.StringVar(&f.maxSize, "max-size", os.Getenv("HPCC_IMAGE_MAX_SIZE"), "size at which images are evicted (default 50GB)")
	p.StringVar(&f.platform, "platform", os.Getenv("HPCC_IMAGE_PLATFORM"), "platform, such as linux/arm64")
	p.StringSliceVar(&f.allow, "allow", env("HPCC_IMAGE_ALLOW"), "digest or repository that may be used; repeatable")
	p.BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.AddCommand(a.newImageBuild(&f), a.newImageList(&f), a.newImageRemove(&f))
	return cmd
}

// store opens the store that flags and environment name.
func (a *app) store(f *imageFlags) (*rootfs.Store, error) {
	opt := rootfs.Options{Dir: f.dir}
	if opt.Dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, withHint(fmt.Errorf("no cache directory: %w", err), "set HPCC_IMAGE_DIR or --dir")
		}
		opt.Dir = filepath.Join(base, "hpcc-images")
	}
	var err error
	if f.maxSize != "" {
		if opt.MaxBytes, err = config.ParseSize(f.maxSize); err != nil {
			return nil, usage{fmt.Errorf("--max-size is %q: %w", f.maxSize, err)}
		}
	}
	if f.platform != "" {
		if opt.Platform, err = rootfs.ParsePlatform(f.platform); err != nil {
			return nil, usage{err}
		}
	}
	if len(f.allow) > 0 {
		if opt.Allow, err = rootfs.ParseAllowList(f.allow); err != nil {
			return nil, usage{err}
		}
	}
	s, err := rootfs.Open(opt)
	if err != nil {
		return nil, withHint(err, "set HPCC_IMAGE_DIR or --dir to a directory that can be written")
	}
	return s, nil
}

func (a *app) newImageBuild(f *imageFlags) *cobra.Command {
	var layout, archive string
	cmd := &cobra.Command{
		Use:   "build [REF | --layout DIR [TAG] | --archive FILE [TAG]]",
		Short: "Pull an image and make its root file system",
		Long: `Build pulls an image from a registry, or reads it from an OCI layout or from what
docker save wrote, and makes its root file system, unless it is there already.
Credentials are those of docker login or podman login.

A tag is looked up once: build says which digest it took, and that digest is the
image's name from then on.`,
		Example: `  hpcc image build debian:12
  hpcc image build registry.example.com/toolchains/gcc@sha256:4f53cda18c2baa0c…
  hpcc image build --layout ./gcc-image
  docker save gcc:12 -o gcc.tar && hpcc image build --archive gcc.tar`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usage{fmt.Errorf("%s takes one image, not %d", cmd.CommandPath(), len(args))}
			case layout != "" && archive != "":
				return usage{errors.New("--layout and --archive exclude each other")}
			case layout == "" && archive == "" && len(args) == 0:
				return usage{withHint(errors.New("which image?"), "see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			s, err := a.store(f)
			if err != nil {
				return err
			}
			ref := strings.Join(args, "")
			src, closer, err := openSource(ctx, f, layout, archive, ref)
			if err != nil {
				return imageError(err)
			}
			defer func() { _ = closer.Close() }() // it was only read
			p := a.newProgress("")
			img, err := s.Build(ctx, src, func(now rootfs.Progress) {
				p.what = stageText(now)
				p.show(now.Bytes)
			})
			p.end()
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted; nothing was left behind")
			}
			if err != nil {
				return imageError(err)
			}
			if repository := src.Repository(); repository != "" && !strings.Contains(ref, "@") {
				a.note("%s is %s@%s", src.Name(), repository, img.Digest)
			}
			return a.printImage(f, img)
		},
	}
	cmd.Flags().StringVar(&layout, "layout", "", "read an OCI image layout from this directory")
	cmd.Flags().StringVar(&archive, "archive", "", "read what docker save, or an archiver of a layout, wrote to this file")
	cmd.Flags().StringSliceVar(&f.mirrors, "mirror", nil, "ask this before a registry: REGISTRY=MIRROR; repeatable (default $HPCC_IMAGE_MIRRORS)")
	return cmd
}

// openSource opens what an image is read from.
func openSource(ctx context.Context, f *imageFlags, layout, archive, ref string) (rootfs.Source, io.Closer, error) {
	switch {
	case layout != "":
		return rootfs.Layout(layout, ref)
	case archive != "":
		return rootfs.Archive(ctx, archive, ref)
	}
	entries := f.mirrors
	if entries == nil {
		entries = strings.FieldsFunc(os.Getenv("HPCC_IMAGE_MIRRORS"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	mirrors, err := registry.ParseMirrors(entries)
	if err != nil {
		return nil, nil, usage{err}
	}
	src, err := registry.New(ref, registry.Options{Mirrors: mirrors})
	if err != nil {
		return nil, nil, usage{err}
	}
	return src, io.NopCloser(nil), nil
}

// stageText says what a build is at; the bytes follow it.
func stageText(p rootfs.Progress) string {
	switch p.Stage {
	case "pull":
		return fmt.Sprintf("layer %d of %d, %s in all, read", p.Layer, p.Layers, config.HumanSize(p.Total))
	case "write":
		return fmt.Sprintf("file system, %s, written", config.HumanSize(p.Total))
	}
	return "hashing"
}

// imageError adds what can be done about an image that was refused.
func imageError(err error) error {
	var r *rootfs.Refusal
	if !errors.As(err, &r) {
		return err
	}
	switch r.Reason {
	case rootfs.NotAllowed:
		return withHint(err, "who keeps this machine allows images by HPCC_IMAGE_ALLOW or --allow")
	case rootfs.WrongPlatform:
		return withHint(err, "--platform asks for another; this machine is linux/%s", runtime.GOARCH)
	case rootfs.WrongDigest, rootfs.Truncated:
		return withHint(err, "the registry or mirror gave other bytes than the digest names: try again, and look into it if it stays so")
	case rootfs.DeviceNode:
		return withHint(err, "build the image without /dev: the guest has its own")
	}
	return err
}

func (a *app) printImage(f *imageFlags, img rootfs.Image) error {
	if f.asJSON {
		return a.printJSON(img)
	}
	t := a.newTable()
	t.row("digest", img.Digest)
	t.row("file", img.Path)
	t.row("size", a.size(img.Size))
	t.row("root hash", img.RootHash)
	t.row("platform", img.Platform)
	return t.flush()
}

func (a *app) newImageList(f *imageFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the images that are ready",
		Long:  `List shows the images that are ready, the one that was used last first.`,
		Example: `  hpcc image list
  hpcc image list --json | jq -r '.[].path'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.store(f)
			if err != nil {
				return err
			}
			images, err := s.List()
			if err != nil {
				return err
			}
			if f.asJSON {
				return a.printJSON(images)
			}
			if len(images) == 0 {
				a.note("no images; hpcc image build makes one")
				return nil
			}
			t := a.newTable("DIGEST", "SIZE", "USED", "PLATFORM", "FROM")
			for _, img := range images {
				digest, used := img.Digest, img.Used.UTC().Format(time.RFC3339)
				if a.terminal {
					digest, used = shortDigest(digest), ago(time.Since(img.Used))
				}
				from := ""
				if len(img.Sources) > 0 {
					from = img.Sources[0].Name
				}
				t.row(digest, a.size(img.Size), used, img.Platform, from)
			}
			return t.flush()
		},
	}
}

// shortDigest is enough of a digest for people, and for hpcc image remove.
func shortDigest(digest string) string { return digest[:len("sha256:")+16] }

// ago writes an age in its largest unit.
func ago(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.d); n > 1 {
			return strconv.Itoa(n) + " " + u.name + "s ago"
		} else if n == 1 {
			return "1 " + u.name + " ago"
		}
	}
	return "just now"
}

func (a *app) newImageRemove(f *imageFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove DIGEST…",
		Short: "Remove images",
		Long: `Remove removes images by digest, or by as much of one as no other begins with. An
image that a virtual machine holds is not removed.`,
		Example: `  hpcc image remove sha256:4f53cda18c2baa0c`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage{withHint(errors.New("which image?"), "hpcc image list shows them")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.store(f)
			if err != nil {
				return err
			}
			images, err := s.List()
			if err != nil {
				return err
			}
			for _, arg := range args {
				img, err := findImage(images, arg)
				if err != nil {
					return err
				}
				if err := s.Remove(cmd.Context(), img.Digest); err != nil {
					return fmt.Errorf("%s: %w", img.Digest, err)
				}
				a.note("removed %s, %s", img.Digest, config.HumanSize(img.Size))
			}
			return nil
		},
	}
}

// findImage finds the image whose digest begins with arg.
func findImage(images []rootfs.Image, arg string) (found rootfs.Image, err error) {
	hex := strings.TrimPrefix(arg, "sha256:")
	n := 0
	for _, img := range images {
		if len(hex) >= 6 && strings.HasPrefix(img.Digest, "sha256:"+hex) {
			found = img
			n++
		}
	}
	switch n {
	case 0:
		return found, withHint(fmt.Errorf("no image %q", arg), "hpcc image list shows them; at least six digits of a digest are needed")
	case 1:
		return found, nil
	}
	return found, withHint(fmt.Errorf("%q is the beginning of %d digests", arg, n), "write more of it")
}
