package daemon

import (
	"slices"
	"strconv"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// messages is what the bytes that a compiler prints depend on besides its
// inputs. A result that printed something serves those only whose messages
// would be the same.
type messages struct {
	// env holds the variables that count: language, colours, width.
	env []string
	// stderr describes what diagnostics see, stdout the rest.
	stderr, stdout string
	// either names the context of what was printed on stderr alone, which is
	// the same wherever stdout goes; exact that of everything else.
	either, exact string
}

func messagesOf(req *ipcv1.Compile, env []string) messages {
	m := messages{env: env, stderr: "stderr " + terminalText(req.GetStderr()), stdout: "stdout " + terminalText(req.GetStdout())}
	slices.Sort(m.env)
	if req.GetStderr().GetIsTerminal() {
		// gcc asks descriptor 0 for the width (get_terminal_width).
		m.stderr += ", stdin " + terminalText(req.GetStdin())
	}
	if req.GetMerged() {
		m.stdout += ", merged with stderr"
	}
	name := func(parts ...string) string {
		return digest.NewKey("messages").Field("env", m.env...).Field("streams", parts...).Sum().String()
	}
	m.either, m.exact = name(m.stderr), name(m.stderr, m.stdout)
	return m
}

func terminalText(t *ipcv1.Terminal) string {
	if !t.GetIsTerminal() {
		return "pipe"
	}
	return "terminal " + strconv.Itoa(int(t.GetColumns()))
}

// serve reports whether a result of the given context has the messages that
// are wanted here; "" is that of a result without any.
func (m *messages) serve(context string) bool {
	return context == "" || context == m.either || context == m.exact
}

// context names what a compile's messages depended on; "" if there are none.
func (m *messages) context(c *compiled) string {
	switch {
	case len(c.stdout)+len(c.stderr) == 0:
		return ""
	case len(c.stdout) == 0 && !c.merged:
		return m.either
	}
	return m.exact
}

// mark adds to an action what messages of a context that serves here depend on,
// so that results that differ in these alone lie side by side.
func (m *messages) mark(a *action.Action, context string) {
	if context == "" {
		return
	}
	streams := []string{m.stderr, m.stdout}
	if context == m.either {
		streams = streams[:1]
	}
	a.Env = slices.Concat(a.Env, m.env)
	a.Command = append(slices.Clone(a.Command), action.Mark(action.MarkMessages, strings.Join(streams, ", ")))
}
