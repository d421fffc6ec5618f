// Package e2e tests a cluster of real processes through real clients: genuine etcdctl and
// clientv3.
//
// The same tests run against etcd itself (E2E_SERVER=etcd), which proves that what they demand
// is etcd's behaviour; tests of what only Pontoon has are skipped there. With -short those that
// kill, wait or fill at length are skipped, and of the rest those that wait run beside each
// other, four at a time or -parallel, after those that run alone. Environment:
//
//	E2E_SERVER=pontoon|etcd   what is tested; default pontoon
//	E2E_NODE=path             the server's binary; default: built from this tree
//	E2E_CLIENT=path           bin/client; default: built from this tree
//	E2E_BIN=dir               where etcdctl and etcd are; default: build/bin, built if missing
//	E2E_RACE=1                build the server with the race detector
//	E2E_LONG=1                run the long tests, too
//	E2E_SLACK=2               by how much a slow machine may miss the time limits
//	E2E_KEEP=1                keep data and logs
package e2e
