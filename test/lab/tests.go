package lab

import (
	"bytes"
	"testing"
)

// RunTests runs the tests of a package (an import path) that need the lab: its
// test binary is built with the build tag "lab", beside which no other is set,
// and job says where and with what; job.Program is set here. What they print is
// logged as it comes, and t fails if they do.
//
//	//go:build e2e
//	func TestInLab(t *testing.T) {
//		files, err := lab.Machine(t.Context())
//		…
//		lab.RunTests(t, "hpcc.dev/hpcc/internal/vm/firecracker", lab.Job{Files: files})
//	}
func RunTests(t testing.TB, pkg string, job Job) {
	t.Helper()
	program, err := BuildTest(t.Context(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	job.Program = program
	job.Args = append([]string{"-test.v"}, job.Args...)
	job.Log = func(line string) { t.Log("lab: " + line) }
	stdout, stderr := &lineLog{t: t}, &lineLog{t: t}
	job.Stdout, job.Stderr = stdout, stderr
	r, err := Run(t.Context(), job)
	stdout.flush()
	stderr.flush()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("lab: ran in the %s: up after %.1f s, done after %.1f s", r.Environment, r.Start.Seconds(), r.Took.Seconds())
	if r.Status != 0 {
		t.Errorf("the tests of %s ended with status %d", pkg, r.Status)
	}
}

// lineLog logs whole lines.
type lineLog struct {
	t    testing.TB
	rest []byte
}

func (l *lineLog) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.t.Log(string(line))
		l.rest = rest
	}
}

func (l *lineLog) flush() {
	if len(l.rest) > 0 {
		l.t.Log(string(l.rest))
	}
}
