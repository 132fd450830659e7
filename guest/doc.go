// Package guest makes and describes the guest kit: what a virtual machine of
// hpcc runs before any user's image is there.
//
// A Kit is a kernel (an ELF vmlinux, which Firecracker starts directly) and an
// initramfs whose /init is hpcc-agent. There are two kinds of kernel:
//
//   - hpcc's own, built from a distribution's Linux source by kernel.config,
//     the list of what it has and lacks, with the reasons: no modules, no IP
//     stack, no network drivers (BuildKernel);
//   - a distribution's own, unchanged, for those who may run only kernels that
//     the distribution signed, with the modules that it needs in the initramfs
//     (UnpackKernel). It has a network stack, which finds no device.
//
// Both lie in a store, a directory that holds kernels by what they were made
// from and initramfs by their content, so that a store never has to be rebuilt
// for what it had already; a kit in use stays as it is while another is made.
package guest
