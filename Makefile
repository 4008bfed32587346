# Everything that is run by hand or by .ci/run. `make` alone lists the targets.
#
#   make test PKG=./broker/... RUN=TestSend      one package, one test
#   make bench PKG=./bench BENCH=Send            one benchmark
#   make test-servers PKG=./broker/kafka         one suite on the real servers
#   make matrix BACKEND=embedded                 faults in every state of a migration
#   make walk WALK=10m TURNOUT_SEED=7            faults by chance
#   make leak-proof BACKEND=embedded             stress and production traffic never mix

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

PKG       ?= ./...
RUN       ?=
BENCH     ?= .
BENCHTIME ?= 1s
FUZZTIME  ?= 10s
ARGS      ?=
WALK      ?= 3m
BACKEND   ?= embedded servers
SCALE     ?= 10000

# A test run that hangs is ended here, with the stacks of all goroutines. For one package, not for all of them.
TIMEOUT         ?= 5m
RACE_TIMEOUT    ?= 25m
SERVERS_TIMEOUT ?= 30m

LINT_VERSION := v2.12.0
LINT         := bin/golangci-lint-$(LINT_VERSION)

run_flag = $(if $(RUN),-run '$(RUN)')

# The packages of PKG with a test file in which a pattern is found.
packages_with = for package in $$(go list -f '{{.ImportPath}}={{.Dir}}' $(PKG)); do \
	   if grep -qsE '\b$1' "$${package\#*=}"/*_test.go; then echo "$${package%%=*}"; fi; done

.PHONY: help build test test-servers servers-needed server-packages matrix walk scale leak-proof consumption race lint bench fuzz verify demo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

build: ## compile everything; the command line goes to bin/turnout
	go build $(PKG)
	go build -o bin/turnout ./cmd/turnout

test: ## all tests on the embedded servers; needs Go alone
	go test -timeout $(TIMEOUT) $(run_flag) $(PKG)

# Two packages at a time, each with JVMs of its own: they wait more than they work. Vetted by "make test".
test-servers: servers-needed ## the suites that know real servers, on them; needs Java 17, Maven, tar and xz
	@packages=$$($(MAKE) server-packages); \
	 test -n "$$packages" || { echo "make test-servers: no package of $(PKG) has tests that know real servers" >&2; exit 1; }; \
	 echo "TURNOUT_TEST=servers go test -count=1 -p 2 -vet=off -timeout $(SERVERS_TIMEOUT) $(run_flag)" $$packages; \
	 TURNOUT_TEST=servers go test -count=1 -p 2 -vet=off -timeout $(SERVERS_TIMEOUT) $(run_flag) $$packages

servers-needed:
	@.ci/servers-needed

# The packages whose tests ask testenv which backend they are to run on. The others run on embedded servers whatever
# TURNOUT_TEST says, and "make test" has run them.
asks = (Each|EachOf|EachSQL|Backends)\(|testenv\.SQL
server-packages:
	@$(call packages_with,$(asks))

# On the embedded servers some 3 minutes, on real ones some 17.
matrix: $(if $(findstring servers,$(BACKEND)),servers-needed) ## every state of a migration meets every fault (BACKEND, TURNOUT_SEED); writes docs/fault-matrix.md
	@for backend in $(BACKEND); do \
	   TURNOUT_TEST=$$backend TURNOUT_MATRIX='$(CURDIR)/docs/fault-matrix.md' TURNOUT_SEED='$(TURNOUT_SEED)' \
	     go test -count=1 -timeout 60m -run '^TestMatrix$$' ./internal/faulttest; \
	 done

# The backends beside each other: the walks wait more than they work.
walk: $(if $(findstring servers,$(BACKEND)),servers-needed) ## topics move while faults happen by chance, for WALK on each BACKEND; TURNOUT_SEED replays
	@pids=; for backend in $(BACKEND); do \
	   TURNOUT_TEST=$$backend TURNOUT_WALK='$(WALK)' TURNOUT_SEED='$(TURNOUT_SEED)' \
	     go test -count=1 -timeout 60m -run '^TestWalk$$' -v ./internal/faulttest 2>&1 | sed -u "s/^/$$backend: /" & pids="$$pids $$!"; \
	 done; failed=0; for pid in $$pids; do wait $$pid || failed=1; done; exit $$failed

# Some 12 minutes on each SQL database, most of them waiting; ZooKeeper and Kafka are the embedded ones.
scale: $(if $(findstring servers,$(BACKEND)),servers-needed) ## a platform with SCALE topics is measured (BACKEND: SQLite, PostgreSQL); docs/scale.md
	@for backend in $(BACKEND); do \
	   TURNOUT_TEST=$$backend TURNOUT_SCALE='$(SCALE)' go test -count=1 -timeout 60m -run '^TestScale$$' -v ./internal/scale; \
	 done

# 110,000 requests through three applications, more than 220,000 messages: some 2 minutes on the embedded servers, and some 4 on real
# ones, with a run between Kafka and RocketMQ.
leak-proof: $(if $(findstring servers,$(BACKEND)),servers-needed) ## stress and production traffic under faults: nothing crosses (BACKEND, TURNOUT_SEED)
	@for backend in $(BACKEND); do \
	   TURNOUT_SOAK=1 TURNOUT_TEST=$$backend TURNOUT_SEED='$(TURNOUT_SEED)' \
	     go test -count=1 -timeout 15m -run '^TestNothingCrossesTheStressMark' -v .; \
	 done

# Some 7 minutes on each backend, most of them waiting. The race detector needs a C compiler.
consumption: $(if $(findstring servers,$(BACKEND)),servers-needed) ## RocketMQ: the library's push consumer beside ours, case by case (BACKEND)
	@for backend in $(BACKEND); do \
	   TURNOUT_CONSUMPTION=1 TURNOUT_TEST=$$backend go test -count=1 -timeout 30m -run '^TestConsumption$$' -v ./bench; \
	 done

# What runs finds its races in the first repetitions; "make test" has all of them, and vets.
race: ## all tests under the race detector, with fewer repetitions (-short); needs a C compiler
	@command -v "$$(go env CC)" >/dev/null || { echo "make race: the race detector needs a C compiler ($$(go env CC) is not on the PATH); install gcc or set CC" >&2; exit 1; }
	CGO_ENABLED=1 go test -race -short -vet=off -count=1 -timeout $(RACE_TIMEOUT) $(run_flag) $(PKG)

# A cache of its own: golangci-lint's shared one gives the findings of another checkout with the paths of that one, which
# the rules for paths do not match.
lint: $(LINT) ## golangci-lint, rules in .golangci.yml
	GOLANGCI_LINT_CACHE='$(CURDIR)/bin/lint-cache' $(LINT) run $(PKG)

# Taken from the PATH when it is the pinned version, else built once.
$(LINT):
	@mkdir -p bin; \
	 have=$$(command -v golangci-lint || ls "$$(go env GOPATH)/bin/golangci-lint" 2>/dev/null || true); \
	 if [ -n "$$have" ] && [ "v$$("$$have" version --short 2>/dev/null)" = "$(LINT_VERSION)" ]; then \
	   ln -sf "$$have" $@; \
	 else \
	   echo "building golangci-lint $(LINT_VERSION) into bin/ (once)"; \
	   GOBIN="$(CURDIR)/bin" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION); \
	   mv bin/golangci-lint $@; \
	 fi

bench: ## benchmarks: PKG, BENCH and BENCHTIME choose, ARGS=-short makes them small; nothing else should run on the machine
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 60m $(ARGS) $$($(call packages_with,func Benchmark))

fuzz: ## every fuzz target of PKG for FUZZTIME each
	@found=0; \
	 for dir in $$(go list -f '{{.Dir}}' $(PKG)); do \
	   for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$dir"/*_test.go 2>/dev/null); do \
	     found=1; echo "fuzz $${dir#$(CURDIR)/} $$target"; \
	     (cd "$$dir" && go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .); \
	   done; \
	 done; \
	 test $$found = 1 || { echo "make fuzz: no fuzz target in $(PKG)" >&2; exit 1; }

verify: ## formatting, go.mod and go.sum, checksums of the modules
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	 test -z "$$unformatted" || { printf 'not gofmt-ed (run gofmt -w):\n%s\n' "$$unformatted" >&2; exit 1; }
	go mod tidy -diff
	go mod verify

demo: ## a topic moves between two clusters under traffic; ARGS go to turnout demo
	go run ./cmd/turnout demo $(ARGS)
