package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

var program = map[string]string{
	"a.c":      "int a; /hpcc/src/b.h /hpcc/src/none.h",
	"b.h":      "int b;",
	"unused.h": "unused",
	"empty":    "",
}

func TestMissThenHit(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	miss := c.compile(program)
	if miss.GetHit() || !miss.GetStored() || len(miss.needed) != 4 || string(miss.GetStdout()) != "out" || string(miss.GetStderr()) != "warning\n" {
		t.Errorf("%v", miss)
	}
	want := program["a.c"] + program["b.h"]
	if miss.outputs["object"] != want {
		t.Errorf("%q", miss.outputs)
	}
	if !slices.ContainsFunc(miss.GetAbsent(), func(p []byte) bool { return string(p) == "/hpcc/src/none.h" }) || len(miss.GetAbsent()) != 1 {
		t.Errorf("absent: %q", miss.GetAbsent())
	}
	hit := c.compile(program)
	if !hit.GetHit() || hit.outputs["object"] != want || !bytes.Equal(hit.GetActionKey(), miss.GetActionKey()) ||
		string(hit.GetStdout()) != "out" || string(hit.GetStderr()) != "warning\n" || hit.GetCompileNanos() != miss.GetCompileNanos() {
		t.Errorf("%v", hit)
	}
	if runs, _, _ := r.machines.count(); runs != 1 {
		t.Errorf("%d runs", runs)
	}
	// What was not read makes no difference, what was read does.
	changed := map[string]string{"a.c": program["a.c"], "b.h": program["b.h"], "more.h": "x"}
	if !c.compile(changed).GetHit() {
		t.Error("a file that is not read makes a miss")
	}
	for name, files := range map[string]map[string]string{
		"an input changed":     {"a.c": program["a.c"], "b.h": "int c;"},
		"an input is missing":  {"a.c": program["a.c"]},
		"an absence came true": {"a.c": program["a.c"], "b.h": program["b.h"], "none.h": "here"},
	} {
		if c.compile(files).GetHit() {
			t.Errorf("%s: a hit", name)
		}
	}
	rows := r.log.all()
	if len(rows) != 6 {
		t.Fatalf("%d rows", len(rows))
	}
	a, b := rows[0], rows[1]
	if a.Cache != audit.Miss || b.Cache != audit.Hit || !a.Accepted || a.Offered || b.Accepted || !b.Offered || a.VM != "vm-1" || b.VM != "" || a.Action != b.Action ||
		a.SourceDigest != b.SourceDigest || a.Tenant != "acme" || a.Subject != "acme@example.com" || a.Worker != "w1" || a.Image != testImage ||
		len(a.Outputs) != 1 || digest.Digest(a.Outputs[0].Digest) != digest.Of([]byte(want)) || a.Isolation.Runtime != "fake" || a.Isolation.NICs == nil ||
		len(a.Inputs) != 3 || len(a.Absent) != 1 || a.Versions.Agent != "7" || a.Versions.HPCC != "test" {
		t.Errorf("%+v\n%+v", a, b)
	}
	if miss.done.GetRow() != 1 || hit.done.GetRow() != 2 || hit.done.GetWorker() != "w1" {
		t.Errorf("%v, %v", miss.done, hit.done)
	}
	r.nothingHeld(t)
	if left := r.temporary(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A second tenant is asked for everything, and answered as if there were nobody
// else.
func TestTenantsAreApart(t *testing.T) {
	r := newRig(t, nil)
	first := r.client(t, "acme").compile(program)
	second := r.client(t, "evil").compile(program)
	if second.GetHit() || !slices.Equal(first.needed, second.needed) {
		t.Errorf("the second tenant: hit %v, needed %v, and the first %v", second.GetHit(), second.needed, first.needed)
	}
	if want := []string{"acme " + testImage, "evil " + testImage}; !slices.Equal(r.machines.acquired, want) {
		t.Errorf("%q", r.machines.acquired)
	}
}

// What a client finds to be there after all is sent, in the same stream.
func TestSentAgain(t *testing.T) {
	r := newRig(t, nil)
	k := r.client(t, "acme").open()
	k.job(newJob(map[string]string{"a.c": program["a.c"]}))
	k.needed()
	k.upload(program["a.c"])
	if o := k.outcome(); !o.GetStored() || len(o.GetAbsent()) != 2 {
		t.Errorf("%v", o)
	}
	k.job(newJob(program))
	for _, d := range k.needed() {
		if d == digest.Of([]byte(program["a.c"])) {
			t.Error("the source is needed again")
		}
		for _, content := range program {
			if digest.Of([]byte(content)) == d {
				k.upload(content)
			}
		}
	}
	o := k.outcome()
	k.accept("object")
	outputs, _ := k.outputs(o)
	if len(outputs) != 0 || k.code() != codes.OK {
		t.Errorf("%v", outputs)
	}
	// The first run left nothing.
	if n := r.storedFiles(t, "acme"); n != 2 {
		t.Errorf("%d files", n)
	}
	rows := r.log.all()
	if len(rows) != 2 || rows[0].Accepted || !rows[1].Accepted {
		t.Errorf("%+v", rows)
	}
}

// A hit's absences are confirmed by the client as well.
func TestSentAgainAfterHit(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	less := map[string]string{"a.c": program["a.c"]}
	c.compile(less)
	k := c.open()
	k.job(newJob(less))
	o := k.outcome()
	if !o.GetHit() {
		t.Fatal("no hit")
	}
	k.outputs(o)
	k.job(newJob(program))
	for _, d := range k.needed() {
		for _, content := range program {
			if digest.Of([]byte(content)) == d {
				k.upload(content)
			}
		}
	}
	o = k.outcome()
	k.accept()
	if outputs, _ := k.outputs(o); outputs["object"] != program["a.c"]+program["b.h"] || k.code() != codes.OK {
		t.Errorf("%v", outputs)
	}
}

func TestTooManyAttempts(t *testing.T) {
	r := newRig(t, nil)
	k := r.client(t, "acme").open()
	for i := range workerv1.MaxAttempts + 2 {
		k.job(newJob(map[string]string{"a.c": fmt.Sprintf("int a%d;", i)}))
		if i > workerv1.MaxAttempts {
			break
		}
		k.needed()
		k.upload(fmt.Sprintf("int a%d;", i))
		k.outcome()
	}
	if code := k.code(); code != codes.InvalidArgument {
		t.Error(code)
	}
	if n := r.storedFiles(t, "acme"); n != 0 {
		t.Errorf("%d files", n)
	}
}

func TestNotStored(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		change func(*workerv1.Job)
		exec   func(*agentapi.Result)
		want   func(*workerv1.Outcome) bool
		cache  audit.Cache
	}{
		"a failing compile": {
			files: map[string]string{"a.c": "fail"}, cache: audit.Miss,
			want: func(o *workerv1.Outcome) bool { return o.GetExitCode() == 1 && string(o.GetStderr()) == "error\n" },
		},
		"what a failing compile leaves": {
			files: program, exec: func(r *agentapi.Result) { r.ExitCode = 1 }, cache: audit.Miss,
			want: func(o *workerv1.Outcome) bool { return o.GetExitCode() == 1 && len(o.GetOutputs()) == 1 },
		},
		"a failing compile without its output": {
			files: program, exec: func(r *agentapi.Result) { r.ExitCode, r.Outputs = 1, nil }, cache: audit.Miss,
			want: func(o *workerv1.Outcome) bool { return o.GetExitCode() == 1 && len(o.GetOutputs()) == 0 },
		},
		"an uncached job": {
			files: program, change: func(j *workerv1.Job) { j.Uncached = true }, cache: audit.Uncached,
			want: func(o *workerv1.Outcome) bool { return len(o.GetOutputs()) == 1 },
		},
		"a limit": {
			files: program, exec: func(r *agentapi.Result) { r.Limit, r.Outputs = agentapi.LimitMemory, nil }, cache: audit.Miss,
			want: func(o *workerv1.Outcome) bool { return o.GetLimit() == "memory" && len(o.GetOutputs()) == 0 },
		},
		"a signal": {
			files: program, exec: func(r *agentapi.Result) { r.Signal = 11 }, cache: audit.Miss,
			want: func(o *workerv1.Outcome) bool { return o.GetSignal() == 11 && len(o.GetOutputs()) == 0 },
		},
		"a device": {
			files: program, cache: audit.Miss,
			exec: func(r *agentapi.Result) {
				r.Lookups = append(r.Lookups, agentapi.Lookup{Path: "/hpcc/src/null", Found: agentapi.FoundOther})
			},
			want: func(o *workerv1.Outcome) bool { return len(o.GetOutputs()) == 1 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.machines.exec = func(ctx context.Context, run int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
				result, err := compiler(ctx, run, job, blobs, sinks)
				if c.exec != nil && err == nil {
					c.exec(result)
				}
				return result, err
			}
			cl := r.client(t, "acme")
			for run := 1; run <= 2; run++ {
				change := c.change
				if change == nil {
					change = func(*workerv1.Job) {}
				}
				o := cl.compile(c.files, change)
				if o.GetStored() || o.GetHit() || !c.want(o.Outcome) {
					t.Errorf("%v", o.Outcome)
				}
				if runs, _, _ := r.machines.count(); runs != run {
					t.Errorf("%d runs", runs)
				}
			}
			if n := r.storedFiles(t, "acme"); n != 0 {
				t.Errorf("%d files", n)
			}
			for _, row := range r.log.all() {
				if row.Cache != c.cache || !row.Accepted {
					t.Errorf("%+v", row)
				}
			}
			r.nothingHeld(t)
		})
	}
}

func TestBadMachines(t *testing.T) {
	guest := &agentapi.GuestError{Reason: "it lies"}
	lost := &agentapi.LostError{Err: status.Error(codes.Internal, "gone")}
	always := func(err error) func(int) error { return func(int) error { return err } }
	for name, c := range map[string]struct {
		fail   func(run int) error
		change func(*agentapi.Result)
		want   codes.Code
		runs   int
		broken int
	}{
		"a guest that breaks the contract": {fail: always(guest), want: codes.DataLoss, runs: 1, broken: 1},
		"a machine that is lost always":    {fail: always(lost), want: codes.Unavailable, runs: 2, broken: 2},
		"a machine that is lost once": {fail: func(run int) error {
			if run == 1 {
				return lost
			}
			return nil
		}, want: codes.OK, runs: 2, broken: 1},
		"a job that is refused":   {fail: always(&agentapi.RefusedError{Reason: "no gcc"}), want: codes.FailedPrecondition, runs: 1},
		"an input that is gone":   {fail: always(&agentapi.SourceError{Err: fmt.Errorf("x: %w", errNotFound)}), want: codes.Unavailable, runs: 1},
		"a disk that is full":     {fail: always(&agentapi.SinkError{Err: errors.New("full")}), want: codes.Internal, runs: 1},
		"a record that is cut":    {change: func(r *agentapi.Result) { r.LookupsTruncated = true }, want: codes.FailedPrecondition, runs: 1},
		"success without outputs": {change: func(r *agentapi.Result) { r.Outputs = nil }, want: codes.FailedPrecondition, runs: 1},
		"a file that is no input": {change: func(r *agentapi.Result) {
			r.Lookups = append(r.Lookups, agentapi.Lookup{Path: "/hpcc/src/x", Found: agentapi.FoundFile})
		}, want: codes.DataLoss, runs: 1, broken: 1},
		"an input that is absent": {change: func(r *agentapi.Result) {
			r.Lookups = []agentapi.Lookup{{Path: "/hpcc/src/b.h", Found: agentapi.Absent}}
		}, want: codes.DataLoss, runs: 1, broken: 1},
		"a file that is a link": {change: func(r *agentapi.Result) {
			r.Lookups = []agentapi.Lookup{{Path: "/hpcc/src/b.h", Found: agentapi.FoundSymlink}}
		}, want: codes.DataLoss, runs: 1, broken: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.machines.exec = func(ctx context.Context, run int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
				if c.fail != nil && c.fail(run) != nil {
					return nil, c.fail(run)
				}
				result, err := compiler(ctx, run, job, blobs, sinks)
				if c.change != nil && err == nil {
					c.change(result)
				}
				return result, err
			}
			k := r.client(t, "acme").open()
			k.job(newJob(program))
			for _, d := range k.needed() {
				for _, content := range program {
					if digest.Of([]byte(content)) == d {
						k.upload(content)
					}
				}
			}
			k.accept()
			if code := k.code(); code != c.want {
				t.Errorf("%v, want %v", code, c.want)
			}
			r.nothingHeld(t)
			runs, _, broken := r.machines.count()
			if runs != c.runs || len(broken) != c.broken {
				t.Errorf("%d runs, broken: %v", runs, broken)
			}
			rows := r.log.all()
			if len(rows) != c.runs {
				t.Fatalf("%d rows", len(rows))
			}
			if last := rows[len(rows)-1]; last.Accepted != (c.want == codes.OK) || (last.Error == "") != (c.want == codes.OK) {
				t.Errorf("%+v", last)
			}
			if n := r.storedFiles(t, "acme"); (n > 0) != (c.want == codes.OK) {
				t.Errorf("%d files", n)
			}
		})
	}
}

func TestNoMachine(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"full":  {fmt.Errorf("x: %w", &vm.FullError{RetryAfter: 7 * time.Second}), codes.ResourceExhausted},
		"image": {fmt.Errorf("x: %w", &ImageError{testImage, errors.New("a device node")}), codes.FailedPrecondition},
		"other": {errors.New("no boot"), codes.Unavailable},
	} {
		r := newRig(t, nil)
		cl := r.client(t, "acme")
		cl.compile(program)
		r.machines.acquire = func(context.Context, string) error { return c.err }
		// A hit needs no machine.
		if !cl.compile(program).GetHit() {
			t.Errorf("%s: no hit", name)
		}
		k := cl.open()
		k.job(newJob(map[string]string{"a.c": "new"}))
		k.needed()
		k.upload("new")
		err := k.failure()
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == codes.ResourceExhausted {
			details := status.Convert(err).Details()
			if len(details) != 1 || details[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration() != 7*time.Second {
				t.Errorf("%v", details)
			}
		}
	}
}

// Rows come before results: without them there is nothing.
func TestNoRowNoResult(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	c.compile(program)
	r.log.mu.Lock()
	r.log.err = errors.New("disk full")
	r.log.mu.Unlock()
	k := c.open()
	k.job(newJob(program))
	if m, err := k.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("a hit: %v, %v", m, err)
	}
	k = c.open()
	k.job(newJob(map[string]string{"a.c": "new"}))
	k.needed()
	k.upload("new")
	k.outcome()
	k.accept()
	if m, err := k.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("a miss: %v, %v", m, err)
	}
	if n := r.storedFiles(t, "acme"); n != 2 {
		t.Errorf("%d files", n)
	}
}

// The client may be anywhere when it goes, or when it says what it should not.
func TestCutAtEveryStage(t *testing.T) {
	content := strings.Repeat("large\n", 1<<19) // in a file, from a mebibyte on
	files := map[string]string{"a.c": content, "b.h": "x"}
	stages := []func(*talk){
		func(*talk) {},
		func(k *talk) { k.job(newJob(files)) },
		func(k *talk) { k.needed() },
		func(k *talk) { k.blob([]byte(content[:workerv1.ChunkSize])) },
		func(k *talk) {
			for rest := content[workerv1.ChunkSize:]; rest != ""; rest = rest[min(len(rest), workerv1.ChunkSize):] {
				k.blob([]byte(rest[:min(len(rest), workerv1.ChunkSize)]))
			}
		},
		func(k *talk) { k.upload("x") },
		func(k *talk) { k.outcome() },
	}
	for _, half := range []bool{false, true} {
		for n := range len(stages) + 1 {
			r := newRig(t, nil)
			k := r.client(t, "acme").open()
			for _, s := range stages[:n] {
				s(k)
			}
			if half {
				_ = k.CloseSend()
				if code := k.code(); code != codes.Canceled {
					t.Errorf("stage %d: %v", n, code)
				}
			} else {
				k.cancel()
			}
			r.nothingHeld(t)
			if n := r.storedFiles(t, "acme"); n != 0 {
				t.Errorf("stage %d: %d files", n, n)
			}
			if left := r.temporary(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			for _, row := range r.log.all() {
				if row.Accepted {
					t.Errorf("%+v", row)
				}
			}
			if n == len(stages) && len(r.log.all()) != 1 {
				t.Errorf("%d rows of a run that was not accepted", len(r.log.all()))
			}
		}
	}
}

func TestBadBlobs(t *testing.T) {
	files := map[string]string{"a.c": "int a;", "b.h": ""}
	for name, send := range map[string]func(*talk){
		"other bytes":         func(k *talk) { k.upload("int b;") },
		"fewer, then another": func(k *talk) { k.upload("int"); k.upload("") },
		"more bytes":          func(k *talk) { k.upload("int a;int a;") },
		"an empty chunk":      func(k *talk) { k.blob(nil) },
		"a large chunk":       func(k *talk) { k.blob(make([]byte, workerv1.ChunkSize+1)) },
		"acceptance":          func(k *talk) { k.accept() },
		"another job":         func(k *talk) { k.job(newJob(files)) },
		"nothing":             func(k *talk) { _ = k.Send(&workerv1.CompileRequest{}) },
		"too many blobs":      func(k *talk) { k.upload("int a;"); k.upload(""); k.upload("int a;") },
	} {
		r := newRig(t, nil)
		k := r.client(t, "acme").open()
		k.job(newJob(files))
		if n := k.needed(); len(n) != 2 {
			t.Fatalf("%v", n)
		}
		send(k)
		if code := k.code(); code != codes.InvalidArgument {
			t.Errorf("%s: %v", name, code)
		}
		r.nothingHeld(t)
	}
}

func TestBadAcceptance(t *testing.T) {
	for name, send := range map[string]func(*talk){
		"a role that is none": func(k *talk) { k.accept("dwo") },
		"a role twice":        func(k *talk) { k.accept("object", "object") },
		"a blob":              func(k *talk) { k.blob([]byte("x")) },
	} {
		r := newRig(t, nil)
		k := r.client(t, "acme").open()
		k.job(newJob(map[string]string{"a.c": "x"}))
		k.needed()
		k.upload("x")
		k.outcome()
		send(k)
		if code := k.code(); code != codes.InvalidArgument {
			t.Errorf("%s: %v", name, code)
		}
		if n := r.storedFiles(t, "acme"); n != 0 {
			t.Errorf("%s: %d files", name, n)
		}
	}
}

// Of many equal jobs at once one runs.
func TestOneOfManyRuns(t *testing.T) {
	r := newRig(t, nil)
	release := make(chan struct{})
	r.machines.exec = func(ctx context.Context, run int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
		<-release
		return compiler(ctx, run, job, blobs, sinks)
	}
	const n = 32
	var all sync.WaitGroup
	hits := make(chan bool, n)
	for range n {
		c := r.client(t, "acme")
		all.Go(func() { hits <- c.compile(program).GetHit() })
	}
	for r.Streams() < n {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	close(hits)
	misses := 0
	for hit := range hits {
		if !hit {
			misses++
		}
	}
	if runs, _, _ := r.machines.count(); runs != 1 || misses != 1 {
		t.Errorf("%d runs, %d misses", runs, misses)
	}
}

// Where the first has gone, the next one runs; where it failed, all others do.
func TestFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		key := flightKey{tenant: "acme"}
		leave, err := f.enter(t.Context(), key, time.Minute)
		if leave == nil || err != nil {
			t.Fatal(err)
		}
		if other, _ := f.enter(t.Context(), flightKey{tenant: "evil"}, time.Minute); other == nil {
			t.Error("another tenant waits")
		} else {
			other(stored)
		}
		began := time.Now()
		if second, err := f.enter(t.Context(), key, time.Minute); second != nil || err != nil || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(errEnded)
		if _, err := f.enter(gone, key, time.Minute); !errors.Is(err, errEnded) {
			t.Errorf("%v", err)
		}
		const n = 8
		answers := make(chan func(landing), n)
		for range n {
			go func() {
				leave, err := f.enter(t.Context(), key, time.Hour)
				if err != nil {
					t.Error(err)
				}
				answers <- leave
			}()
		}
		synctest.Wait()
		leave(abandoned)
		synctest.Wait()
		if len(answers) != 1 {
			t.Fatalf("%d go on", len(answers))
		}
		next := <-answers
		next(unstorable)
		synctest.Wait()
		if len(answers) != n-1 {
			t.Fatalf("%d go on", len(answers))
		}
		for range n - 1 {
			if leave := <-answers; leave != nil {
				t.Error("others wait for one of those who go on")
			}
		}
		if len(f.running) != 0 {
			t.Errorf("%d left", len(f.running))
		}
	})
}

// A client that goes while its job runs ends the job.
func TestCancel(t *testing.T) {
	for _, half := range []bool{false, true} {
		r := newRig(t, nil)
		running, ended := make(chan struct{}), make(chan struct{})
		r.machines.exec = func(ctx context.Context, _ int, _ agentapi.Job, _ agentapi.Blobs, _ agentapi.Sinks) (*agentapi.Result, error) {
			close(running)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}
		k := r.client(t, "acme").open()
		k.job(newJob(map[string]string{"a.c": "x"}))
		k.needed()
		k.upload("x")
		<-running
		if half {
			_ = k.CloseSend()
		} else {
			k.cancel()
		}
		<-ended
		r.nothingHeld(t)
		if _, _, broken := r.machines.count(); len(broken) > 0 {
			t.Errorf("broken: %v", broken)
		}
		if rows := r.log.all(); len(rows) != 1 || rows[0].Error == "" || rows[0].Accepted {
			t.Errorf("%+v", rows)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Images = images{"/usr/bin/gcc": digest.Of([]byte("gcc"))} })
	for token, want := range map[string]codes.Code{"nobody": codes.Unauthenticated, "": codes.Unauthenticated, "acme/" + otherImage: codes.PermissionDenied} {
		k := r.client(t, token).open()
		k.job(newJob(program))
		if code := k.code(); code != want {
			t.Errorf("%q: %v", token, code)
		}
		c := r.client(t, token)
		if _, err := c.rpc.Describe(c.context(t.Context()), &workerv1.DescribeRequest{Image: testImage}); status.Code(err) != want {
			t.Errorf("%q: %v", token, err)
		}
	}
	c := r.client(t, "acme")
	if _, err := c.rpc.Describe(t.Context(), &workerv1.DescribeRequest{Image: testImage}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no token: %v", err)
	}
	got, err := c.rpc.Describe(c.context(t.Context()), &workerv1.DescribeRequest{Image: testImage, Paths: []string{"/usr/bin/none", "/usr/bin/gcc"}})
	if err != nil || len(got.GetFiles()) != 2 || len(got.GetFiles()[0].GetSha256()) != 0 || got.GetFiles()[1].GetSize() != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for _, paths := range [][]string{{"usr"}, {"/../etc"}, make([]string, workerv1.MaxDescribe+1)} {
		if _, err := c.rpc.Describe(c.context(t.Context()), &workerv1.DescribeRequest{Image: testImage, Paths: paths}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d paths: %v", len(paths), err)
		}
	}
	other := r.client(t, "acme/"+otherImage)
	if _, err := other.rpc.Describe(other.context(t.Context()), &workerv1.DescribeRequest{Image: otherImage, Paths: []string{"/x"}}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an image that is not here: %v", err)
	}
	r.Drain()
	k := c.open()
	k.job(newJob(program))
	if code := k.code(); code != codes.Unavailable {
		t.Errorf("while it drains: %v", code)
	}
}

func TestTooManyStreams(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxStreams = 1 })
	c := r.client(t, "acme")
	first := c.open()
	first.job(newJob(program))
	first.needed()
	second := c.open()
	second.job(newJob(program))
	if err := second.failure(); status.Code(err) != codes.ResourceExhausted || len(status.Convert(err).Details()) != 1 {
		t.Errorf("%v", err)
	}
}

// Large outputs and inputs go by files, and come back whole.
func TestLarge(t *testing.T) {
	r := newRig(t, nil)
	content := "/hpcc/src/b.h " + strings.Repeat("0123456789abcdef", 1<<17)
	files := map[string]string{"a.c": content, "b.h": strings.Repeat("x", workerv1.ChunkSize)}
	c := r.client(t, "acme")
	for _, hit := range []bool{false, true} {
		o := c.compile(files)
		if o.GetHit() != hit || o.outputs["object"] != content+files["b.h"] {
			t.Errorf("hit %v, %d bytes", o.GetHit(), len(o.outputs["object"]))
		}
	}
	r.nothingHeld(t)
}

// An entry whose blob is damaged or gone is a miss, and is repaired.
func TestDamagedStore(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	want := c.compile(program)
	store, err := r.stores.get("acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := overwriteBlob(store.Dir(), digest.Of([]byte(want.outputs["object"]))); err != nil {
		t.Fatal(err)
	}
	if got := c.compile(program); got.GetHit() || got.outputs["object"] != want.outputs["object"] {
		t.Errorf("%v", got)
	}
	if !c.compile(program).GetHit() {
		t.Error("not repaired")
	}
	// An input that is damaged fails the job once, and is asked for then.
	if err := overwriteBlob(store.Dir(), digest.Of([]byte(program["b.h"]))); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"a.c": "other /hpcc/src/b.h", "b.h": program["b.h"]}
	k := c.open()
	k.job(newJob(files))
	k.needed()
	k.upload(files["a.c"])
	if code := k.code(); code != codes.Unavailable {
		t.Errorf("%v", code)
	}
	if o := c.compile(files); len(o.needed) != 1 || o.outputs["object"] != files["a.c"]+files["b.h"] {
		t.Errorf("%v", o)
	}
}

// An input is on its way to the machine while it is being stored. One that cannot
// be stored has a row that says so, and no result.
func TestInputNotStored(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	c.compile(program)
	store, err := r.stores.get("acme")
	if err != nil {
		t.Fatal(err)
	}
	source := "new /hpcc/src/b.h"
	// A file where a directory of the store has to be.
	shard := filepath.Join(store.Dir(), "cas", digest.Of([]byte(source)).Hex()[:2])
	if err := errors.Join(os.RemoveAll(shard), os.WriteFile(shard, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	rows := r.log.all()
	k := c.open()
	k.job(newJob(map[string]string{"a.c": source, "b.h": program["b.h"]}))
	k.needed()
	k.upload(source)
	if code := k.code(); code != codes.Internal {
		t.Errorf("%v", code)
	}
	if more := r.log.all()[len(rows):]; len(more) != 1 || more[0].Error == "" || more[0].Accepted {
		t.Errorf("rows: %+v", more)
	}
}

func TestFresh(t *testing.T) {
	f := fresh{}
	for i, c := range []struct {
		size int
		want bool
	}{{smallBytes + 1, false}, {smallBytes - 10, true}, {11, false}, {4, true}, {4, true}, {1, true}, {1, false}} {
		d := digest.Of([]byte{byte(i)})
		if got := f.take(d, make([]byte, c.size)); got != c.want || (f[d] != nil) != c.want {
			t.Errorf("%d: %d bytes: %v", i, c.size, got)
		}
	}
}

// Rows of hits name the same blob as that of the run, and are the same whether
// the blob was made again or not.
func TestRowsOfHits(t *testing.T) {
	r := newRig(t, nil)
	files := map[string]string{}
	source := ""
	for i := range 300 {
		name := fmt.Sprintf("a/rather/long/name/of/a/header%03d.h", i)
		files[name] = fmt.Sprint(i)
		source += "/hpcc/src/" + name + "\n"
	}
	files["a.c"] = source
	c := r.client(t, "acme")
	for range 3 {
		c.compile(files)
	}
	// Another command that leads to the same action, and one that does not fit in
	// a row.
	c.compile(files, func(j *workerv1.Job) { slices.Reverse(j.Roots) })
	long := func(j *workerv1.Job) { j.Argv = append(j.Argv, strings.Repeat("x", 10_000)) }
	c.compile(files, long)
	c.compile(files, long)
	c.compile(files, long)
	store, err := r.stores.get("acme")
	if err != nil {
		t.Fatal(err)
	}
	rows := r.log.all()
	for i, want := range []audit.Cache{audit.Miss, audit.Hit, audit.Hit, audit.Hit, audit.Miss, audit.Hit, audit.Hit} {
		row := *rows[i]
		if row.Cache != want || row.SourceDigest != rows[0].SourceDigest || (row.Detail == audit.Digest{}) || len(row.Inputs) > 0 {
			t.Errorf("row %d: %s, %d inputs", i, row.Cache, len(row.Inputs))
		}
		blob, err := store.Blob(digest.Digest(row.Detail))
		if err != nil {
			t.Fatal(err)
		}
		if err := row.Restore(blob); err != nil {
			t.Errorf("row %d: %v", i, err)
		}
		if len(row.Inputs) != 302 || len(row.Argv) == 0 || (i < 4) != (len(row.Argv) == 5) || (i == 3) != (row.Roots[0] == "/hpcc/out") {
			t.Errorf("row %d: %d inputs, %d arguments, roots %q", i, len(row.Inputs), len(row.Argv), row.Roots)
		}
	}
	for i, j := range []int{1, 2} {
		if rows[j].Detail != rows[0].Detail {
			t.Errorf("%d: another blob", i)
		}
	}
}
