module hpcc.dev/hpcc

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	go.uber.org/goleak v1.3.0
	golang.org/x/sys v0.49.0
	hpcc.dev/hpcc/proto v0.0.0
	pgregory.net/rapid v1.3.0
)

require github.com/aperturerobotics/protobuf-go-lite v0.14.0 // indirect

replace hpcc.dev/hpcc/proto => ./proto
