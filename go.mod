module hpcc.dev/hpcc

go 1.26

require hpcc.dev/hpcc/proto v0.0.0

replace hpcc.dev/hpcc/proto => ./proto
