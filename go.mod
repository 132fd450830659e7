module hpcc.dev/hpcc

go 1.26.0

replace hpcc.dev/hpcc/proto => ./proto

require (
	golang.org/x/sys v0.49.0
	hpcc.dev/hpcc/proto v0.0.0
)

require github.com/aperturerobotics/protobuf-go-lite v0.14.0 // indirect
