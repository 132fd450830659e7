package compiler

import "strings"

// drivers are the names under which compilers are installed, without target
// prefix and version.
var drivers = []struct {
	name   string
	family Family
	cxx    bool
}{
	{"gcc", GCC, false},
	{"g++", GCC, true},
	{"clang", Clang, false},
	{"clang++", Clang, true},
	// What these are is only known by asking: on Debian gcc, elsewhere clang.
	{"cc", GCC, false},
	{"c++", GCC, true},
	{"c89", GCC, false},
	{"c99", GCC, false},
	{"clang-cl", ClangCL, false},
	{"cl", CL, false}, // clang, too, is clang-cl under this name
}

// FamilyOf says which family a compiler's file name suggests, and whether the
// name makes it treat C sources as C++. It knows target prefixes and version
// suffixes ("aarch64-linux-gnu-g++-12", "clang++-14", "gcc12",
// "x86_64-w64-mingw32-gcc-posix", "clang-cl-14"). The name is a guess that toolchain
// detection confirms; ok is false for anything that is not a compiler's name.
func FamilyOf(name string) (family Family, isCXX, ok bool) {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.TrimSuffix(name, ".exe")
	name = strings.TrimSuffix(name, "-posix") // Debian's mingw thread models
	name = strings.TrimSuffix(name, "-win32")
	if family, isCXX, ok = driverNamed(name); ok { // c89 ends in digits of its own
		return family, isCXX, true
	}
	name = strings.TrimSuffix(strings.TrimRight(name, "0123456789."), "-")
	return driverNamed(name)
}

// driverNamed looks a name without version up, with or without a target
// prefix.
func driverNamed(name string) (family Family, isCXX, ok bool) {
	for _, d := range drivers {
		prefix, found := strings.CutSuffix(name, d.name)
		// cl has no prefixes, and many another program's name ends in -cl.
		if found && (prefix == "" || strings.HasSuffix(prefix, "-") && d.family != CL) {
			return d.family, d.cxx, true
		}
	}
	return 0, false, false
}
