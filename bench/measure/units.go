package measure

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Small is a C unit of two headers.
const Small = `#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "-n") != 0)
			puts(argv[i]);
	return 0;
}
`

// Redis copies redis' unpacked source below work, unless it is there, and makes what
// its makefile would make first. It returns the copy's name.
func Redis(ctx context.Context, source, work string) (string, error) {
	const dir = "redis"
	if _, err := os.Stat(filepath.Join(work, dir)); err == nil {
		return dir, nil
	}
	if source == "" {
		return "", fmt.Errorf("-redis names no source")
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", source, filepath.Join(work, dir)).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(work, dir, "src/release.h"),
		[]byte("#define REDIS_GIT_SHA1 \"00000000\"\n#define REDIS_GIT_DIRTY \"0\"\n#define REDIS_BUILD_ID \"bench\"\n"), 0o644)
}

// RedisFlags are those that redis' own makefile uses, with the system's allocator.
func RedisFlags(dir string) []string {
	flags := []string{"-std=c11", "-O2", "-Wall", "-D_REENTRANT", "-DREDIS_STATIC="}
	for _, d := range []string{"hiredis", "linenoise", "lua/src", "hdr_histogram"} {
		flags = append(flags, "-I"+dir+"/deps/"+d)
	}
	return flags
}
