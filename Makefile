# Targets for people and for CI; .ci/run calls nothing else.
#
#   make setup     install what a fresh Debian 12 machine with Go lacks
#   make build     bin/hpcc, bin/hpccd, bin/hpcc-jail, bin/hpcc-agent, bin/ccache-storage-hpcc
#   make guest     kernel and initramfs of the virtual machine
#   make demo      the whole chain from nothing: CA, scheduler, worker with Firecracker,
#                  and two clients without a compiler, who build lua; KVM or not
#   make demo-local  build a real program cold and warm, and explain a miss
#   make demo-vm   one compile in a virtual machine, with timings, KVM or not
#   make test      vet, unit tests, script tests, fuzz seeds, race detector
#   make e2e       redis, sqlite3, Linux and others through hpcc, against the plain
#                  compiler and what strace saw of it
#   make soak      the same in the counts that find rare faults
#   make fuzz      every fuzz target for FUZZTIME (10m), one after the other
#   make bench     ratios against ccache, sccache, zccache and distcc -> docs/performance.md
#   make lint      golangci-lint
#   make generate  protobuf code from proto/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

# The Go modules of the workspace. Each target that checks runs in all of them.
MODULES := . proto agent

VERSION ?= $(shell scripts/version)
LDFLAGS := -s -w -X hpcc.dev/hpcc/internal/ipc.Version=$(VERSION)

# The runtime setting of cmd/hpcc/main.go, and one that //go:debug does not
# take: without a heap profile, which nobody reads, the start touches five pages
# less.
WRAPPER_LDFLAGS := -X runtime.godebugDefault=updatemaxprocs=0,memprofilerate=0

# Packages whose bugs are races; the rest of the tests run without the
# detector, which costs five to ten times the time (-short leaves out the
# hundred thousand requests and files, which have run without it).
RACE := cache shared store tiers daemon ipc wrapper action rootfs agentapi telemetry audit auth vm scheduler
RACE_AGENT := blob lookup job server

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BUF := github.com/bufbuild/buf/cmd/buf@v1.75.0
PROTOC_GEN_GO_LITE := github.com/aperturerobotics/protobuf-go-lite/cmd/protoc-gen-go-lite
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

# A missing compiler or tool fails a test instead of skipping it.
export HPCC_TEST_REQUIRE ?= 1

.PHONY: build
# Static programs: without cgo a Go program starts in half the time, and the
# wrapper starts once for every compile. -trimpath keeps the build directory
# out of them.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/hpccd
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/hpcc-jail
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS) $(WRAPPER_LDFLAGS)' -o bin/ ./cmd/hpcc
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.Version=$(VERSION)' -o bin/ ./agent/cmd/hpcc-agent
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.Version=$(VERSION)' -o bin/ ./cmd/ccache-storage-hpcc

.PHONY: setup
setup:
	@scripts/setup

.PHONY: test
test: setup build vet
	# -count=1: script tests run programs that go test's cache knows nothing of.
	for m in $(MODULES); do (cd $$m && go test -count=1 -timeout 30m ./...); done
	go test -race -short $(foreach p,$(RACE),$(if $(wildcard internal/$p),./internal/$p/...))
	cd agent && go test -race -short $(foreach p,$(RACE_AGENT),./internal/$p)

.PHONY: vet
vet:
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted" >&2; exit 1; fi
	for m in $(MODULES); do (cd $$m && go vet ./... && go vet -tags lab ./...); done
	go vet -tags e2e ./test/...

.PHONY: guest
# Where tests look for the kernel, too; minutes once, then nothing.
guest: setup build
	@bin/hpccd guest build --dir "$${HPCC_TEST_CACHE:-$$HOME/.cache/hpcc-test}/guest"

.PHONY: e2e
e2e: setup build guest
	go test -tags e2e -p 1 -count=1 -timeout 4h -v ./test/e2e ./test/chain
	go test -tags e2e -count=1 -timeout 30m -run TestWorkerPulls -v ./cmd/hpccd
	go test -tags e2e -count=1 -timeout 2h -v ./test/lab
	go test -tags e2e -count=1 -timeout 1h -v ./test/s3
	go test -tags e2e -count=1 -timeout 1h -v ./test/tiers

.PHONY: soak
soak: setup build
	HPCC_SOAK=1 go test -tags e2e -p 1 -count=1 -timeout 6h -v ./test/e2e ./test/chain
	HPCC_SOAK=1 go test -tags e2e -count=1 -timeout 2h -v ./test/tiers
	HPCC_SOAK=1 go test -count=1 -timeout 6h -v ./test/fault
	HPCC_SOAK=1 go test -count=1 -timeout 2h -run Closure -v ./internal/compiler
	go test -count=1 -run TestNoGrowth -v ./internal/daemon

.PHONY: fuzz
# One worker: more only help a machine that has nothing else to do. Minimising
# a long input that is new costs a minute by default, as good as all the time.
FUZZTIME ?= 10m
fuzz:
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' agent cmd guest internal proto test | xargs -n1 dirname | sort -u); do \
		for f in $$(go test -list '^Fuzz' ./$$p | grep '^Fuzz'); do \
			echo "=== $$p $$f"; \
			nice go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel 1 ./$$p; \
		done; \
	done

.PHONY: demo
demo: setup build guest
	@go run ./test/lab/demo bin

.PHONY: demo-local
demo-local: setup build
	@scripts/demo

.PHONY: demo-vm
demo-vm: setup build guest
	@go run ./test/lab/demo -machine bin

.PHONY: bench
bench: setup build
	@bench/run

.PHONY: lint
lint:
	cd proto && go run $(BUF) lint
	for m in $(MODULES); do (cd $$m && go run $(GOLANGCI_LINT) run ./...); done

.PHONY: generate
generate:
	cd proto && export GOBIN=$(CURDIR)/.cache/bin PATH="$(CURDIR)/.cache/bin:$$PATH" && \
	go install $(PROTOC_GEN_GO_LITE) $(PROTOC_GEN_GO) && go install $(PROTOC_GEN_GO_GRPC) && go install $(BUF) && \
	buf generate --path hpcc/action --path hpcc/ipc && \
	buf generate --template buf.gen.grpc.yaml --path hpcc/agent --path hpcc/worker --path hpcc/scheduler

.PHONY: clean
clean:
	rm -rf bin .cache
