module hpcc.dev/hpcc/proto

go 1.26

require github.com/aperturerobotics/protobuf-go-lite v0.14.0
