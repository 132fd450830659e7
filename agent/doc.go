// Package agent is the root of the module for hpcc-agent, the first process of
// the virtual machine in which a tenant's compiles will run. It is a module of
// its own so that a reviewer of the machine reads a dependency list of a few
// lines. The programs of this release compile on the user's machine only, and
// nothing imports it yet.
package agent
