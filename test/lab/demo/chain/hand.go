//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
)

// hands is how many objects are made by hand, too.
const hands = 3

// byHand makes some of the objects by the image's compiler with the command that
// hpcc says it runs.
func (s *site) byHand(c *client, objects map[string]string) error {
	if err := s.unpack(); err != nil {
		return err
	}
	for i, name := range names(objects) {
		if i == hands {
			break
		}
		unit := strings.TrimSuffix(name, ".o")
		command, err := s.run(c.user, c.sources(), c.env(), hpcc, "wrap", "--show-command", "gcc", "-std=gnu99", "-Wall", "-Wextra", "-DLUA_COMPAT_5_3",
			"-DLUA_USE_LINUX", "-O2", "-c", unit+".c", "-o", name)
		if err != nil {
			return err
		}
		indent("$ " + command)
		if _, err := s.inImage("/hpcc/src/src", command); err != nil {
			return err
		}
		text, err := s.run(root, "/", nil, "sha256sum", chroot+"/hpcc/out/object")
		if err != nil {
			return err
		}
		sum, _, _ := strings.Cut(text, " ")
		if sum != objects[name] {
			return fmt.Errorf("%s: %s by hand, %s by hpcc", name, sum, objects[name])
		}
		say("     %s: %.12s…, the same", name, sum)
		if err := os.Remove(chroot + "/hpcc/out/object"); err != nil {
			return err
		}
	}
	return nil
}

// link has the image's compiler link a client's objects: lua, which is then run,
// or, if some are missing, one object of them.
func (s *site) link(c *client, objects map[string]string) error {
	if _, err := s.run(root, "/", nil, "sh", "-c", "cp "+c.sources()+"/*.o "+chroot+"/hpcc/out"); err != nil {
		return err
	}
	if len(s.units) > 0 {
		if _, err := s.inImage("/hpcc/out", "gcc -r -o some.o "+strings.Join(names(objects), " ")); err != nil {
			return err
		}
		say("   gcc -r: one object of %d", len(objects))
		return nil
	}
	command := "rm luac.o && gcc -Wl,-E -o lua *.o -lm -ldl"
	if _, err := s.inImage("/hpcc/out", command); err != nil {
		return err
	}
	const program = `print(_VERSION, ("compiled %s"):format("on workers"), 6 * 7)`
	text, err := s.inImage("/hpcc/out", "./lua -v && ./lua -e '"+program+"'")
	if err != nil {
		return err
	}
	indent("$ " + command + " && ./lua -v && ./lua -e …\n" + text)
	if !strings.Contains(text, "compiled on workers\t42") {
		return fmt.Errorf("lua says %q", text)
	}
	return nil
}
