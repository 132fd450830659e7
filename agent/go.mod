module hpcc.dev/hpcc/agent

go 1.26
