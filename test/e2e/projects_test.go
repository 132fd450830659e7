//go:build e2e && linux

package e2e

import "testing"

// projects are the programs whose build systems ask more of a compiler cache.
var projects = []program{
	{
		// CMake puts hpcc before the compiler's path; heavy headers of the C++
		// library. keepdepfile: Ninja removes dependency files once read.
		source:    "yaml-cpp",
		prepare:   prepareYAML,
		build:     []string{"ninja", "-C", "bld", "-d", "keepdepfile"},
		launched:  true,
		result:    "bld/libyaml-cpp.a",
		compilers: []string{"gcc", "clang"},
	},
	{
		// kbuild asks the compiler a hundred questions, has it write dependency
		// files by -Wp,-MMD and turns them into its own, compiles assembly that
		// is preprocessed, and makes headers from the assembly of C.
		source:  "linux",
		prepare: prepareLinux,
		build:   []string{"make", "O=bld", "vmlinux"},
		clang:   []string{"CC=clang", "HOSTCC=clang"},
		env: []string{"KBUILD_BUILD_TIMESTAMP=Wed Nov 15 00:00:00 UTC 2023", "KBUILD_BUILD_USER=user",
			"KBUILD_BUILD_HOST=host", "KBUILD_BUILD_VERSION=1"},
		result:    "bld/vmlinux",
		compilers: []string{"gcc"},
	},
	{
		// A Debian package: configure, automake's dependency files, generated
		// sources, the hardening flags, and what debhelper does on top.
		source: "dash",
		build: []string{"sh", "-c", `dpkg-buildpackage -b -uc -us -d "$@" && rm ../dash_*.buildinfo ../dash_*.changes && mv ../*.deb .`,
			"dpkg-buildpackage"},
		// dwz does not know all of the DWARF 5 that clang writes.
		clangEnv:  []string{"CC=clang", "DEB_CFLAGS_APPEND=-gdwarf-4"},
		env:       []string{"DEB_BUILD_OPTIONS=nocheck"},
		result:    "src/dash",
		compilers: []string{"gcc"},
		refused: []refusal{
			{"input-modified", "conftest.c", "configure compiles what it wrote within the same tick of the clock"},
		},
	},
}

func prepareLinux(t *testing.T, dir, compiler string) {
	run(t, dir, "make", "O=bld", "CC="+compiler, "HOSTCC="+compiler, "tinyconfig")
}

func prepareYAML(t *testing.T, dir, compiler string) {
	cxx := map[string]string{"gcc": "g++", "clang": "clang++"}[compiler]
	run(t, dir, "cmake", "-G", "Ninja", "-S", ".", "-B", "bld", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
		"-DCMAKE_C_COMPILER="+compiler, "-DCMAKE_CXX_COMPILER="+cxx,
		"-DCMAKE_C_COMPILER_LAUNCHER=hpcc", "-DCMAKE_CXX_COMPILER_LAUNCHER=hpcc",
		"-DYAML_CPP_BUILD_TESTS=OFF")
}
