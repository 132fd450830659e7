// Package rootfs turns an OCI image into the root file system of a virtual
// machine: one file that holds an ext4 file system and the dm-verity hash tree
// that the guest checks it with.
//
// An image's identity is the digest of its platform manifest. A Source hands
// out an image's bytes and is not believed: manifest, configuration, compressed
// layers and what they unpack to are each checked against the digest that named
// them, while they stream past. Layers are applied in order to a tree of headers
// in memory (tree.go), with file contents in one spool file, and the tree is
// then written once, sorted, by package ext4. No path of a layer ever reaches
// the host's file system, so none can leave a directory; still, what only a
// hostile or broken layer holds is refused, as a Refusal with a Reason.
//
// Beside each image lies an index of its files (files.go), made while they are
// written: whoever asks which compiler an image holds needs neither a mount nor a
// machine.
//
// The same manifest gives the same bytes of the whole file, on every machine.
//
// A Store keeps images by digest under a limit of bytes, and lets several
// processes build at once.
package rootfs
