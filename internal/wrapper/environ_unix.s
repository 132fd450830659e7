//go:build unix

// Empty: that the package has an assembly file lets runtimeEnviron be declared
// without a body.
