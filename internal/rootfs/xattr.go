package rootfs

import (
	"archive/tar"
	"cmp"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/rootfs/ext4"
)

const paxXattr = "SCHILY.xattr."

// keptXattrs are the extended attributes that reach the image: file
// capabilities, and users' own.
var keptXattrs = []string{"security.capability", "user."}

// droppedXattrs say how the machine that made the layer labelled its files,
// which means nothing in the guest: its kernel has no such module. ACLs are
// dropped as well: the mode says what is left of them, and jobs of the guest all
// run as strangers to the image's users.
var droppedXattrs = []string{
	"security.selinux", "security.ima", "security.evm", "security.SMACK64", "security.apparmor",
	"system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "com.apple.",
}

// steeringXattrs would be read as orders by an overlay that the guest mounts
// above the image. They are refused before the list of what is kept is asked.
var steeringXattrs = []string{"trusted.overlay.", "user.overlay."}

// xattrsOf returns an entry's extended attributes, sorted. One that is neither
// known to be harmless nor to be meaningless is refused.
func xattrsOf(h *tar.Header) ([]xattr, error) {
	var all []xattr
	room := ext4.MaxXattrs
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		has := func(list []string) bool {
			return slices.ContainsFunc(list, func(known string) bool {
				return attr == known || strings.HasSuffix(known, ".") && strings.HasPrefix(attr, known) && attr != known
			})
		}
		switch {
		case has(steeringXattrs):
			return nil, refuse(BadXattr, "%q would steer the guest's overlay", clip(attr))
		case has(droppedXattrs):
			continue
		case !has(keptXattrs) || len(attr) > maxName || strings.ContainsAny(attr, "=\x00"):
			return nil, refuse(BadXattr, "%q is not one of %s*", clip(attr), strings.Join(keptXattrs, "*, "))
		}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeFifo {
			return nil, refuse(BadXattr, "%q on something that Linux lets have none", clip(attr))
		}
		if room -= ext4.XattrSize(attr, value); room < 0 {
			return nil, refuse(BadXattr, "more than the %d bytes that ext4 has room for", ext4.MaxXattrs)
		}
		all = append(all, xattr{attr, value})
	}
	slices.SortFunc(all, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}
