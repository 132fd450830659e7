// Mkgcc prints the directory of an OCI layout that holds an image of Debian
// with gcc and g++, its tag and its digest, making it first if it is not there:
//
//	read -r layout tag digest < <(go run ./test/images/mkgcc)
//	hpcc image build --layout "$layout" "$tag"
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"hpcc.dev/hpcc/test/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	img, err := images.GCC(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkgcc:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, img.Layout, img.Tag, img.Digest)
}
