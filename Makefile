# Pontoon: `make help` lists the targets.

GO       ?= go
BIN      := bin
TOOLS    := build/bin
FUZZTIME ?= 20s
STATICCHECK := v0.8.2
PKGS     := ./...

# Plain Go: a static binary and no C compiler; the race detector alone needs C.
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/node and bin/client
	$(GO) build -o $(BIN)/node ./cmd/node
	$(GO) build -o $(BIN)/client ./cmd/client

.PHONY: run
run: build ## a cluster of three nodes on this machine; Ctrl-C stops it
	@$(GO) build -o build/devcluster ./internal/tools/devcluster
	@exec build/devcluster -node $(BIN)/node

.PHONY: etcd-tools
etcd-tools: $(TOOLS)/etcdctl $(TOOLS)/etcdutl $(TOOLS)/etcd ## genuine etcdctl, etcdutl and etcd v3.7.3, for the tests

$(TOOLS)/etcdctl: test/etcdtools/go.mod
	cd test/etcdtools && $(GO) build -o ../../$(TOOLS)/etcdctl go.etcd.io/etcd/etcdctl/v3
$(TOOLS)/etcdutl: test/etcdtools/go.mod
	cd test/etcdtools && $(GO) build -o ../../$(TOOLS)/etcdutl go.etcd.io/etcd/etcdutl/v3
$(TOOLS)/etcd: test/etcdtools/go.mod
	cd test/etcdtools && $(GO) build -o ../../$(TOOLS)/etcd go.etcd.io/etcd/server/v3

# Unit tests apart from those with real processes: neither disturbs the other's clock.
UNITS = $(shell $(GO) list ./... | grep -v /test/e2e$$)

# Tests that wait may do it beside each other, whatever the number of processors.
BESIDE := -parallel 4

# The programs that are built already, unless others are asked for.
BUILT = $(if $(E2E_CLIENT),,E2E_CLIENT=$(abspath $(BIN)/client)) $(if $(E2E_SERVER)$(E2E_RACE)$(E2E_NODE),,E2E_NODE=$(abspath $(BIN)/node))

.PHONY: test
test: build etcd-tools ## units, scenarios, simulations, models, then genuine etcdctl against real processes
	$(GO) test -short $(BESIDE) -timeout 15m $(UNITS)
	E2E_SLACK=4 $(BUILT) $(GO) test -short -count=1 -timeout 15m ./test/e2e

.PHONY: test-unit
test-unit: ## the same without real processes
	$(GO) test -short $(BESIDE) -timeout 15m $(UNITS)

.PHONY: test-full
test-full: ## unit tests with their long forms
	$(GO) test $(BESIDE) -timeout 30m $(UNITS)

# Where goroutines meet, which is where they share something: these run under the race detector in CI, too. test-race runs
# everything; mvcc, which takes five minutes there alone, only there.
RACE_CORE = $(shell $(GO) list -f '{{range .Imports}}{{if or (eq . "sync") (eq . "golang.org/x/sync/errgroup")}}{{$$.ImportPath}}{{"\n"}}{{end}}{{end}}' \
  $$($(GO) list ./internal/... | grep -v /internal/tools/) ./placement/... ./raftgroup/... ./shard/... ./watchfanout | sort -u)

.PHONY: test-race
test-race: ## all unit tests under the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m $(UNITS)

.PHONY: test-race-core
test-race-core: ## the same for the packages where goroutines meet
	CGO_ENABLED=1 $(GO) test -race -short -timeout 15m $(RACE_CORE)

.PHONY: e2e
e2e: build etcd-tools ## all tests with real processes, with kills and recoveries; E2E_SERVER=etcd tests the tests against etcd
	$(GO) test -count=1 -timeout 30m -v ./test/e2e

.PHONY: e2e-long
e2e-long: build etcd-tools ## the long forms of the same
	E2E_LONG=1 $(GO) test -count=1 -timeout 60m -v ./test/e2e

.PHONY: e2e-languages
e2e-languages: build ## Python's and Node's etcd3 and Patroni, installed by apt-get (as root) and npm where they are not there; make e2e runs them, too, where they are
	/usr/bin/python3 -c 'import etcd3, patroni.dcs.etcd3' 2>/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-etcd3 patroni
	mkdir -p build/clients && cp test/clients/node/package*.json build/clients/
	test -d build/clients/node_modules/etcd3 || (cd build/clients && npm ci --no-audit --no-fund)
	$(GO) test -count=1 -timeout 15m -v -run '^Test(PythonEtcd3|NodeEtcd3|Patroni)$$' ./test/e2e

.PHONY: test-mixin
test-mixin: build ## etcd's alerts and dashboard, by Prometheus' own engine, over three nodes that are hurt until every alert has fired: seven minutes
	cd test/mixin && MIXIN_NODE=$(abspath $(BIN)/node) $(GO) test -count=1 -timeout 30m -v .

.PHONY: history
history: $(TOOLS)/etcd ## the recorded load and its judges against genuine etcd: they must find nothing there
	$(GO) test -count=1 -timeout 5m -v -run TestGenuine ./test/history

FAULT    ?= mixed
DURATION ?= 5m
NODES    ?= 3
.PHONY: chaos
chaos: etcd-tools ## hurt real processes and judge what their clients saw: FAULT=kill,partition,… DURATION=5m NODES=3 REPLICAS=3 GATEWAYS=2 SECURE=1
	$(GO) build -o build/chaos ./test/chaos
	build/chaos -fault $(FAULT) -duration $(DURATION) -nodes $(NODES) $(if $(REPLICAS),-replicas $(REPLICAS)) $(if $(GATEWAYS),-gateways $(GATEWAYS)) $(if $(SECURE),-secure)

.PHONY: chaos-short
chaos-short: ## half a minute of it: kill, stop and, where namespaces are allowed, partition
	$(GO) build -o build/chaos ./test/chaos
	build/chaos -fault short -duration 25s

SEED     ?= 0
STEPS    ?= 600

.PHONY: sim
sim: ## a whole cluster, simulated: SEED=0 (a random one, which is printed) STEPS=600
	$(GO) test ./test/sim -count=1 -v -run '^TestSim$$' -args -seed=$(SEED) -steps=$(STEPS)

.PHONY: sim-long
sim-long: ## the same with one seed after another for DURATION=5m
	$(GO) test ./test/sim -count=1 -timeout 0 -v -run '^TestSim$$' -args -seed=$(SEED) -steps=$(STEPS) -duration=$(DURATION) | grep -v '^ *---\|^==='

.PHONY: plansim
plansim: ## the planner against a thousand nodes and a million ranges, on one processor: SEED=1
	GOMAXPROCS=1 $(GO) test ./placement/plansim -count=1 -timeout 20m -v -run '^TestLarge$$' -args -seed=$(SEED)

.PHONY: mutants mutants-plan
mutants: mutants-plan ## proof that the checks can fail: rules of the protocol are taken out one by one, and each must be noticed
	$(GO) test -tags mutate ./raftgroup -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./test/sim -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./watchfanout -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/link -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/mirror ./internal/mirror/auto -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./mvcc -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/auth ./internal/token ./internal/etcdapi -count=1 -timeout 30m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./shard/router -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./shard/replica -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./shard/replica/apply -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./shard/replica/lead -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/host -count=1 -timeout 20m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/peerrpc -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/metaclient -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/meta/granted -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/meta -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/config -count=1 -timeout 10m -v -run '^TestMutants$$'
	$(GO) test -tags mutate ./internal/meta/state -count=1 -timeout 10m -v -run '^Test(Member)?Mutants$$'
mutants-plan: ## the same for the rules of the planner
	$(GO) test -tags mutate ./placement ./placement/plansim -count=1 -timeout 30m -v -run '^Test(Loan)?Mutants$$'

.PHONY: fmt-check
fmt-check: ## that all files are as gofmt has them
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); if [ -n "$$out" ]; then echo "gofmt:"; echo "$$out"; exit 1; fi

.PHONY: lint
lint: fmt-check ## gofmt, go vet and staticcheck at a pinned version
	$(GO) vet $(PKGS)
	GOBIN=$(abspath $(TOOLS)) $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
	$(TOOLS)/staticcheck $(PKGS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s) each
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
	    echo "== $$f in $$(dirname $$file)"; \
	    $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
	  done; done

# Results name the commit that the servers and the harness were built from.
BUILD_BENCH = $(GO) build -ldflags "-X pontoon/bench.commit=$$(git describe --always --dirty --abbrev=12 2>/dev/null)" -o $(BIN)/bench ./cmd/bench

.PHONY: bin/bench
bin/bench: build $(TOOLS)/etcd
	$(BUILD_BENCH)

BENCH ?= put --clients 64 --conns 8 --duration 5s --warm-up 1s --key-space-size 100000 --val-size 256
.PHONY: bench
bench: bin/bench ## Pontoon beside etcd, briefly; bin/bench help lists the workloads
	$(BIN)/bench $(BENCH) --vs etcd --nodes 3 --pairs 2

.PHONY: bench-check
bench-check: bin/bench ## every workload of the benchmark, for a moment, against both: what it verifies, not how fast it is
	$(BIN)/bench --check --vs etcd --quiet --dir build/bench-check
	$(BIN)/bench put --tls --permissions 10 --nodes 3 --total 300 --warm-up 0s --clients 8 --vs etcd --pairs 1 --quiet --dir build/bench-check --out build/bench-check-out

BASE  ?= HEAD
CPUS  ?= 0.12
PAIRS ?= 5
.PHONY: bench-quota
bench-quota: build ## this tree's node beside that of commit BASE=HEAD, servers held to CPUS=0.12 processors each: who takes more
	$(BUILD_BENCH)
	rm -rf build/base && mkdir -p build/base && git archive $(BASE) | tar -x -C build/base
	cd build/base && $(GO) build -buildvcs=false -o ../base-node ./cmd/node
	rm -rf build/base
	$(BIN)/bench programs build/base-node $(BIN)/node --nodes 3 --server-cpus $(CPUS) --pairs $(PAIRS) --out build/bench-quota $(MORE)

.PHONY: bench-scale-out
bench-scale-out: bin/bench ## what 3, 6 and 9 nodes carry, held to CPUS=0.12 processors each, and etcd beside them: half an hour; MORE='--only put,hot'
	$(BIN)/bench scale-out --server-cpus $(CPUS) --over 3,6,9 --etcd-over 3,5,9 --out build/bench-scale-out $(MORE)

BENCHMARKS := docs/benchmarks
.PHONY: bench-etcd bench-report
bench-etcd: bin/bench ## the standard set, three nodes each, into docs/benchmarks; MORE='--resume put' for a part of it
	$(BIN)/bench standard --vs etcd --nodes 3 --out $(BENCHMARKS)/data $(MORE)
	$(MAKE) bench-report
bench-report: ## build/report.html and the tables in docs/benchmarks anew, from the results there
	@mkdir -p build
	$(BUILD_BENCH)
	$(BIN)/bench report --out build/report.html $(BENCHMARKS)/data
	$(BIN)/bench report --out $(BENCHMARKS)/figures.md $(BENCHMARKS)/data

.PHONY: pgo
pgo: bin/bench ## which code of a node is hot, measured anew for the compiler, into cmd/node/default.pgo
	$(GO) build -trimpath -o build/pgo-node ./cmd/node
	$(GO) run ./internal/tools/pgo -node build/pgo-node -bench $(BIN)/bench

.PHONY: bench-idle
bench-idle: $(TOOLS)/etcdctl ## what one idle range costs: 200 ranges on one node
	$(GO) test -count=1 -v -run TestIdleCost ./test/e2e

.PHONY: gen
gen: ## regenerate internal/pb from its .proto files
	cd internal/tools/genpb && $(GO) run . ../../..

.PHONY: check
check: lint test e2e ## everything before a release

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) build
