package remote

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var project = checkout{
	"/hpcc/src/main.c": "use /hpcc/src/gen/x.h\nuse /hpcc/src/a.h\nmain\n",
	"/hpcc/src/a.h":    "use /hpcc/src/b.h\na\n",
	"/hpcc/src/b.h":    "b\n",
}

func TestCompile(t *testing.T) {
	f := newFleet(t, 1)
	r, err := f.client.Compile(within(t), project.request("/hpcc/src/main.c", "/hpcc/src/a.h", "/hpcc/src/b.h"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Hit || !r.Stored || r.ExitCode != 0 || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != "b\na\nmain\n" || r.Attempts != 1 || r.SentBlobs != 3 || r.Row != 1 || r.Worker != "worker-0" {
		t.Errorf("%+v", r)
	}
	again, err := f.client.Compile(within(t), project.request("/hpcc/src/main.c", "/hpcc/src/a.h", "/hpcc/src/b.h"))
	if err != nil {
		t.Fatal(err)
	}
	if !again.Hit || again.Key != r.Key || string(again.Outputs[0].Data) != "b\na\nmain\n" || again.SentBlobs != 0 || f.workers[0].ran() != 1 || again.Row != 2 {
		t.Errorf("%+v", again)
	}
	if f.scheduler.asked() != 1 {
		t.Errorf("the scheduler was asked %d times", f.scheduler.asked())
	}
}
