//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"hpcc.dev/hpcc/bench/measure"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/test/chain"
)

// subject is a unit that is measured.
type subject struct {
	part     string // its name on the command line
	name     string
	compiler string
	source   string // below the project
	args     []string
	rounds   int
}

// figures are what is found of a subject.
type figures struct {
	plain, remote, hit, distcc, pump measure.Series
	machine                          measure.Series // of remote: what the job took there, with the recorder
	preprocessed                     int64          // bytes, by zstd
	up, down, hitUp, hitDown         int64          // bytes at the worker, medians over the rounds
	distccUp, distccDown             int64          // of one compile
	pumpUp, pumpDown                 int64
}

// miss measures compiles of a source that nobody has seen as it is (one line is
// another in each round), with headers that everybody has, and the hits of a second
// client that keeps nothing.
func (b *bench) miss(ctx context.Context, wants func(part string) bool) error {
	source, err := measure.Redis(ctx, *source, b.work)
	if err != nil {
		return err
	}
	heavy, err := os.ReadFile(*unit)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"small.c": []byte(measure.Small), "unit.cc": heavy} {
		if err := os.WriteFile(filepath.Join(b.work, name), text, 0o644); err != nil {
			return err
		}
	}
	one, err := b.client(ctx, "one", chain.ClientOptions{Compilers: true, Settings: `fallback = "fail"`})
	if err != nil {
		return err
	}
	defer func() { _ = one.Stop() }()
	two, err := b.client(ctx, "two", chain.ClientOptions{Compilers: true, Top: "paranoid = true", Settings: `fallback = "fail"`})
	if err != nil {
		return err
	}
	defer func() { _ = two.Stop() }()
	all := []subject{
		{"small", "small C", "gcc", "small.c", []string{"-O2", "-Wall"}, *rounds},
		{"medium", "redis' t_list.c", "gcc", source + "/src/t_list.c", measure.RedisFlags(source), *larger},
		{"cxx", "C++, heavy headers", "g++", "unit.cc", []string{"-O2", "-Wall"}, *larger},
	}
	all = slices.DeleteFunc(all, func(s subject) bool { return !wants(s.part) })
	if len(all) == 0 {
		return nil
	}
	found := make([]*figures, len(all))
	for i, s := range all {
		if found[i], err = b.measure(ctx, s, one, two); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.printMiss(all, found)
	return nil
}

// client starts a client.
func (b *bench) client(ctx context.Context, name string, opt chain.ClientOptions) (*chain.Client, error) {
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return b.chain.NewClient(within, name, opt)
}

// through makes a compile of a client's a process that starts as the others do.
func (b *bench) through(cl *chain.Client, compiler string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(cl.Dir, "links", compiler), args...)
	cmd.Dir, cmd.Env = b.work, cl.Env()
	return cmd
}

func (b *bench) measure(ctx context.Context, s subject, one, two *chain.Client) (*figures, error) {
	text, err := os.ReadFile(filepath.Join(b.work, s.source))
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(s.source)
	variant := filepath.Join(dir, "variant-"+filepath.Base(s.source))
	// edit makes another source of it, as a person does, for all who compile it.
	edit := func(i int) error {
		line := fmt.Sprintf("int hpcc_variant_%d = %d;\n", i, i)
		return os.WriteFile(filepath.Join(b.work, variant), append(bytes.Clone(text), line...), 0o644)
	}
	args := func(out string) []string {
		return append(append([]string{}, s.args...), "-c", variant, "-o", filepath.Join(dir, out))
	}
	distcc := func(server string, pump bool, out string) *exec.Cmd {
		cmd := b.peer.command(server, pump, append([]string{s.compiler}, args(out)...)...)
		cmd.Dir = b.work
		return cmd
	}
	if err := edit(0); err != nil {
		return nil, err
	}
	f := &figures{}
	if f.preprocessed, err = b.preprocessed(s, variant); err != nil {
		return nil, err
	}
	before, err := counts(one, two)
	if err != nil {
		return nil, err
	}
	w := b.chain.Worker(0)
	var up, down, hitUp, hitDown measure.Series
	// One more than is counted: the first fills what can be filled.
	for i := range s.rounds + 1 {
		if err := errors.Join(ctx.Err(), edit(i)); err != nil {
			return nil, err
		}
		plain := exec.Command("/usr/bin/"+s.compiler, args("plain.o")...)
		plain.Dir, plain.Env = b.work, plainEnv()
		times := make([]time.Duration, 0, 5)
		in0, out0 := w.Traffic()
		in1, out1 := in0, out0
		commands := []*exec.Cmd{
			plain, b.through(one, s.compiler, args("remote.o")...), b.through(two, s.compiler, args("hit.o")...), distcc(b.peer.server, false, "distcc.o"),
		}
		if b.peer.pump != "" {
			commands = append(commands, distcc(b.peer.server, true, "pump.o"))
		}
		for k, cmd := range commands {
			took, err := measure.Timed(cmd)
			if err != nil {
				return nil, err
			}
			times = append(times, took)
			if k == 1 {
				in1, out1 = w.Traffic()
			} else if k == 2 && i > 0 {
				in, out := w.Traffic()
				up, down = append(up, time.Duration(in1-in0)), append(down, time.Duration(out1-out0))
				hitUp, hitDown = append(hitUp, time.Duration(in-in1)), append(hitDown, time.Duration(out-out1))
			}
		}
		if *verbose {
			fmt.Fprintln(os.Stderr, s.name, i, times)
		}
		if i == 0 {
			continue
		}
		f.plain, f.remote, f.hit, f.distcc = append(f.plain, times[0]), append(f.remote, times[1]), append(f.hit, times[2]), append(f.distcc, times[3])
		if len(times) > 4 {
			f.pump = append(f.pump, times[4])
		}
	}
	f.up, f.down, f.hitUp, f.hitDown = int64(up.Median()), int64(down.Median()), int64(hitUp.Median()), int64(hitDown.Median())
	if err := same(b.work, dir, "remote.o", "hit.o"); err != nil {
		return nil, err
	}
	after, err := counts(one, two)
	if err != nil {
		return nil, err
	}
	if n := s.rounds + 1; after[0]-before[0] != n || after[1]-before[1] != n {
		return nil, fmt.Errorf("of %d compiles %d missed at one client and %d hit at the other", n, after[0]-before[0], after[1]-before[1])
	}
	if f.machine, err = b.inMachine(s.rounds); err != nil {
		return nil, err
	}
	return f, b.peerBytes(f, func(pump bool) *exec.Cmd { return distcc(b.peer.count.Addr().String(), pump, "counted.o") })
}

// counts are one's misses and two's remote hits so far.
func counts(one, two *chain.Client) (n [2]int, err error) {
	a, err := one.Stats()
	if err != nil {
		return n, err
	}
	b, err := two.Stats()
	return [2]int{a.Misses, b.HitsRemote}, err
}

// same tells whether two objects are the same.
func same(work, dir, a, b string) error {
	x, err := os.ReadFile(filepath.Join(work, dir, a))
	if err != nil {
		return err
	}
	y, err := os.ReadFile(filepath.Join(work, dir, b))
	if err == nil && !bytes.Equal(x, y) {
		err = fmt.Errorf("%s and %s differ", a, b)
	}
	return err
}

// preprocessed is how long a preprocessed source is once zstd has compressed it.
func (b *bench) preprocessed(s subject, source string) (int64, error) {
	args := append(append([]string{}, s.args...), "-E", source)
	cmd := exec.Command("/usr/bin/"+s.compiler, args...)
	cmd.Dir, cmd.Env = b.work, plainEnv()
	text, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	zstd := exec.Command("zstd", "-3", "-c")
	zstd.Stdin = bytes.NewReader(text)
	packed, err := zstd.Output()
	return int64(len(packed)), err
}

// inMachine is what the last n jobs took in the machine, by the audit rows.
func (b *bench) inMachine(n int) (took measure.Series, err error) {
	rows, err := b.chain.Worker(0).Rows()
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.Cache == audit.Miss {
			took = append(took, r.Duration)
		}
	}
	return took[max(0, len(took)-n):], nil
}

// peerBytes counts what distcc sends and gets for one compile, which is not timed.
func (b *bench) peerBytes(f *figures, command func(pump bool) *exec.Cmd) error {
	count := func(pump bool) (up, down int64, err error) {
		p := b.peer.count
		in, out := p.to.Load(), p.from.Load()
		// Its daemon has closed the connection when distcc ends: all is counted.
		if _, err := measure.Timed(command(pump)); err != nil {
			return 0, 0, err
		}
		return p.to.Load() - in, p.from.Load() - out, nil
	}
	var err error
	if f.distccUp, f.distccDown, err = count(false); err != nil || b.peer.pump == "" {
		return err
	}
	f.pumpUp, f.pumpDown, err = count(true)
	return err
}

func (b *bench) printMiss(all []subject, found []*figures) {
	fmt.Fprintln(os.Stdout, "Milliseconds, median and (least); the overhead is the median of what each")
	fmt.Fprintln(os.Stdout, "compile took longer than the plain one of its round, and least less least.")
	fmt.Fprintln(os.Stdout)
	fmt.Fprintln(os.Stdout, "| unit, rounds | plain | through a worker | of it the job | a hit there | distcc | distcc, pump |")
	fmt.Fprintln(os.Stdout, "|---|---|---|---|---|---|---|")
	for i, s := range all {
		f := found[i]
		pumped := "-"
		if len(f.pump) > 0 {
			pumped = f.pump.String()
		}
		fmt.Fprintf(os.Stdout, "| %s, %d | %v | %v | %v | %v | %v | %s |\n", s.name, s.rounds, f.plain, f.remote, f.machine, f.hit, f.distcc, pumped)
	}
	fmt.Fprintln(os.Stdout)
	fmt.Fprintln(os.Stdout, "| unit | overhead of a worker | outside of the job | goal | distcc's | distcc pump's | hit / plain | hit / distcc |")
	fmt.Fprintln(os.Stdout, "|---|---|---|---|---|---|---|---|")
	for i, s := range all {
		f := found[i]
		pumped := "-"
		if len(f.pump) > 0 {
			pumped = over(f.pump, f.plain)
		}
		fmt.Fprintf(os.Stdout, "| %s | %s | %s | ≤ 15, ≤ distcc's | %s | %s | %s | %s |\n", s.name, over(f.remote, f.plain), over(f.remote, f.machine), over(f.distcc, f.plain), pumped,
			measure.Ratio(f.hit.Median(), f.plain.Median()), measure.Ratio(f.hit.Median(), f.distcc.Median()))
	}
	fmt.Fprintln(os.Stdout)
	fmt.Fprintln(os.Stdout, "| bytes, to the worker + back | miss, headers known | hit | distcc | distcc, pump | preprocessed, zstd -3 | miss, up / preprocessed | goal |")
	fmt.Fprintln(os.Stdout, "|---|---|---|---|---|---|---|---|")
	for i, s := range all {
		f := found[i]
		fmt.Fprintf(os.Stdout, "| %s | %d + %d | %d + %d | %d + %d | %s | %d | %.3f | ≤ 0.1 |\n", s.name, f.up, f.down, f.hitUp, f.hitDown, f.distccUp, f.distccDown,
			pair(b.peer.pump != "", f.pumpUp, f.pumpDown), f.preprocessed, float64(f.up)/float64(f.preprocessed))
	}
	if b.peer.why != "" {
		fmt.Fprintf(os.Stdout, "\nNo pump mode: %s.\n", b.peer.why)
	}
	fmt.Fprintln(os.Stdout)
}

func over(a, b measure.Series) string {
	return measure.Ms(a.Minus(b).Median()) + " (" + measure.Ms(a.Least()-b.Least()) + ")"
}

func pair(there bool, a, b int64) string {
	if !there {
		return "-"
	}
	return strconv.FormatInt(a, 10) + " + " + strconv.FormatInt(b, 10)
}
