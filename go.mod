module hpcc.dev/hpcc

go 1.26.0

require (
	github.com/pelletier/go-toml/v2 v2.4.3
	hpcc.dev/hpcc/proto v0.0.0
)

replace hpcc.dev/hpcc/proto => ./proto
