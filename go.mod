module hpcc.dev/hpcc

go 1.26.0

require hpcc.dev/hpcc/proto v0.0.0

require (
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace hpcc.dev/hpcc/proto => ./proto
