# Two commands on a fresh machine, each doing all its set-up: `make demo` and `make test`.
# TORCH=cuda chooses PyTorch's CUDA build (several GB); the default is the CPU build. `make demo TORCH=none` leaves
# PyTorch out, which only training and GPUs need.

PYTHON ?= python3
TORCH  ?= cpu
# Tests side by side. More than there are cores: most of a test is waiting.
WORKERS ?= 5
PACKAGES = dcmtk orthanc orthanc-dicomweb postgresql strace gcc libc6-dev chromium
PYTEST   = $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test quick lint unit container screenshots lock clean bundle benchmark fuzz chaos help

help:
	@echo "make demo       start the node, five downstream nodes, send X-rays, show what arrived where"
	@echo "make test       lint, types, architecture, documentation, all tests, the container"
	@echo "make quick      the same without slow tests and the container, in a minute or two"
	@echo "make container  build the image, run it, and check it (root; Debian 12)"
	@echo "make screenshots  pictures of every page in build/screenshots (needs Chromium)"
	@echo "make lock       write the container's lock files anew"
	@echo "make bundle     wheels and model in one archive, for a machine without internet"
	@echo "make benchmark  this node beside other routers (minutes; needs DCMTK and Orthanc)"
	@echo "make fuzz       malformed PDUs, commands, data sets and pixels for MINUTES=120; findings in runs/fuzz"
	@echo "make chaos      kill the node at every step, hundreds of times (an hour; ARGS='--kills 20' for less), then two"
	@echo "                nodes and their PostgreSQL server, then nine nodes in three roles, a standby and an object store"
	@echo "                (half an hour each; ROUNDS=2 for less), then cut its power at every moment, twice, the second"
	@echo "                time on a failing disk (at most an hour each;"
	@echo "                CUTS='--instances 20 --points 20 --restarts 1 --once 2' for less)"
	@echo "make clean      remove the virtual environment and caches"

demo: $(VENV)/.serve
	$(BIN)/dicom-router demo $(ARGS)

# The container is built and checked beside lint, which needs one core, and the tests; what it says comes after theirs.
# Each of the three fails the whole.
test: $(VENV)/.dev
	@tools/system-packages.sh $(PACKAGES) docker.io mmdebstrap
	@tools/container-check.sh $(BIN)/python >$(VENV)/container.log 2>&1 & container=$$!; \
	$(MAKE) --no-print-directory lint || { kill $$container; wait $$container; exit 1; }; \
	$(PYTEST) $(ARGS); tests=$$?; \
	wait $$container; checked=$$?; cat $(VENV)/container.log; \
	if [ $$tests = 1 ]; then $(BIN)/python -m tests.again; tests=$$?; fi; \
	[ $$tests = 0 ] && [ $$checked = 0 ]

lint: $(VENV)/.dev
	$(BIN)/ruff check router shipping tests benchmarks
	$(BIN)/ruff format --check -q router shipping tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	@tools/system-packages.sh $(PACKAGES)
	$(PYTEST) $(ARGS)

# What needs a system package that is not there is skipped.
quick: lint
	$(PYTEST) -m "not slow" $(ARGS)

container: $(VENV)/.dev
	@tools/container-check.sh $(BIN)/python

screenshots: $(VENV)/.dev
	@tools/system-packages.sh chromium
	$(BIN)/python -m tests.page.screenshots $(ARGS)

lock:
	@PYTHON=$(PYTHON) tools/lock.sh $(ARGS)

$(VENV)/.serve: pyproject.toml
	@tools/setup.sh $(VENV) $(PYTHON) $(TORCH) ""
	@touch $@

$(VENV)/.dev: pyproject.toml
	@tools/setup.sh $(VENV) $(PYTHON) $(TORCH) "dev,notify,parquet,postgres,s3"
	@touch $@ $(VENV)/.serve

# Minutes each, side by side with peers; results and machine as JSON in benchmarks/results.
benchmark: $(VENV)/.dev
	@tools/system-packages.sh dcmtk orthanc postgresql
	mkdir -p benchmarks/results
	for load in dx small dx-jpegll dx-j2k cr; do \
	    $(BIN)/python -m benchmarks.route --load $$load --json benchmarks/results/route-$$load.json || exit 1; done
	$(BIN)/python -m benchmarks.route --associations 4 --json benchmarks/results/route-dx-4.json
	$(BIN)/python -m benchmarks.receive --json benchmarks/results/receive.json
	$(BIN)/python -m benchmarks.forward --json benchmarks/results/forward.json
	$(BIN)/python -m benchmarks.classify --json benchmarks/results/classify.json
	$(BIN)/python -m benchmarks.decode --json benchmarks/results/decode.json
	$(BIN)/python -m benchmarks.spool --json benchmarks/results/spool.json
	folder=$$(mktemp -d /var/tmp/start-XXXXXX); \
	    $(BIN)/python -m benchmarks.start --folder $$folder --json benchmarks/results/start.json; rc=$$?; \
	    rm -rf $$folder; exit $$rc
	for part in latency stow store idle budget layout echo scale steady hostile year find page bulk backlog replicas capacity; do \
	    $(BIN)/python -m benchmarks.$$part --json benchmarks/results/$$part.json || exit 1; done
	$(BIN)/python -m benchmarks.claims --json benchmarks/results/claims.json  # half an hour, 25 GB
	$(BIN)/python -m benchmarks.capacity_model
	$(BIN)/python -m benchmarks.summary

# Goes on where the last campaign stopped; findings and figures in runs/fuzz.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),120) $(ARGS)

# Each run adds rounds to runs/kills, runs/chaos-postgresql and runs/chaos-cluster, and the sums over all of them are
# printed. Power cuts that take longer than an hour are a failure.
chaos: $(VENV)/.dev
	@tools/system-packages.sh strace postgresql
	for way in plain study stow results; do \
	    $(BIN)/python -m tests.chaos.kills --kills 150 --way $$way $(ARGS) || exit 1; done
	$(BIN)/python -m tests.chaos.postgresql --rounds $(or $(ROUNDS),12)
	$(BIN)/python -m tests.chaos.cluster --rounds $(or $(ROUNDS),12)
	timeout 1h $(BIN)/python -m tests.chaos.power_cut $(CUTS)
	timeout 1h $(BIN)/python -m tests.chaos.power_cut --failing $(CUTS)

bundle: $(VENV)/.serve
	@tools/bundle.sh $(VENV) $(PYTHON)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
