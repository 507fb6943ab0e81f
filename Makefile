# fedfleet. `make help` lists what there is; everything installs what it needs into .venv and .venv-tff.
.DEFAULT_GOAL := help
SHELL := /bin/bash

fits = $(shell for p in $(1); do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && command -v $$p && break; done)
PYTHON ?= $(call fits,python3 python3.13 python3.12 python3.11)
PYTHON311 ?= $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
TFF := .venv-tff
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
UV := .venv-lock/bin/uv
LOCK := $(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-annotate \
	--no-header --python-version 3.11
ROOMS := $(CURDIR)/edge:$(CURDIR)/cloud:$(CURDIR)/models:$(CURDIR)/firmware_sim
TFF_TESTS := tests/wire tests/models tests/cloud tests/edge/test_corrupt.py tests/sim/test_tff.py tests/sim/test_tff_parity.py

.PHONY: help demo fleet sim-tff test test-main test-tff test-arm test-cross test-corrupt test-kill test-seeds test-docker \
	test-board check
.PHONY: bench-parity bench-step bench-footprint bench-codecs bench-strategies bench-attacks bench-storm bench-transport \
	bench-aggregate bench-async bench-round bench-virtual bench-combine bench-refine format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

demo: ## Eight devices learn handwriting over MQTT, from nothing, in about a minute after installation
	@echo "fedfleet demo: real digits, 8 devices, FedAvg over MQTT; the first time installs into $(VENV)"
	@$(MAKE) -s --no-print-directory $(VENV)/sim.stamp
	@$(BIN)/fedfleet simulate $(ARGS)

fleet: ## The demo's fleet with a container for each device (needs Docker)
	@$(MAKE) -s --no-print-directory $(VENV)/sim.stamp
	@$(BIN)/fedfleet simulate --engine docker --devices 8 $(ARGS)

test: test-main test-tff ## The whole suite, in both environments

test-main: $(VENV)/dev.stamp ## The suite with the newest TensorFlow and ai-edge-litert
	$(BIN)/python -m pytest $(ARGS)

test-tff: ## The tests of models, cloud and wire with Python 3.11, TF 2.14, Keras 2, TFF 0.87, tflite-runtime
	@if [ -z "$(PYTHON311)" ]; then \
		echo "test-tff SKIPPED: it needs Python 3.11, which is not installed; nothing was run with TensorFlow 2.14"; \
	else $(MAKE) --no-print-directory run-tff; fi

.PHONY: run-tff
run-tff: $(TFF)/dev.stamp
	PYTHONPATH=$(ROOMS) $(TFF)/bin/python -m pytest -p no:cacheprovider $(TFF_TESTS) $(ARGS)

sim-tff: $(TFF)/dev.stamp ## The demo's fleet simulated by TensorFlow Federated (Python 3.11, x86-64)
	@PYTHONPATH=$(ROOMS) $(TFF)/bin/python -m fedfleet.cli.main simulate --engine tff $(ARGS)

test-arm: $(VENV)/sim.stamp ## The same programs emulated on aarch64 and armv7l: losses side by side (needs QEMU, no root)
	@PYTHONPATH=tests $(BIN)/python -m arm.same_on_boards

test-cross: $(VENV)/sim.stamp ## Programs of either TensorFlow under either runtime: losses side by side
	@if [ -z "$(PYTHON311)" ]; then \
		echo "test-cross SKIPPED: it needs Python 3.11, which is not installed; nothing was run with TensorFlow 2.14"; \
	else $(MAKE) --no-print-directory run-cross; fi

.PHONY: run-cross
run-cross: $(TFF)/dev.stamp
	@PYTHONPATH=tests $(BIN)/python -m cross.same_in_both $(TFF)/bin/python

test-kill: $(VENV)/dev.stamp ## Device and aggregator killed all over their work, and 400 power cuts: the same bits, counted once
	@PYTHONPATH=tests $(BIN)/python -m faults.kill_points
	@PYTHONPATH=tests $(BIN)/python -m faults.cloud_points
	@POWER_CUTS=200 $(BIN)/python -m pytest -q tests/edge/test_power.py tests/cloud/test_journal_power.py

test-seeds: $(VENV)/dev.stamp ## A thousand virtual federations with all faults at once, each from its number
	@PYTHONPATH=tests $(BIN)/python -m faults.seeds $(ARGS)

test-corrupt: ## A thousand damaged programs under each runtime: none takes the agent down
	@CORRUPT=1000 $(MAKE) --no-print-directory test-main ARGS="-q tests/edge/test_corrupt.py"
	@CORRUPT=1000 $(MAKE) --no-print-directory test-tff TFF_TESTS=tests/edge/test_corrupt.py ARGS=-q

test-docker: $(VENV)/dev.stamp ## Images, a fleet in containers, one cut off, one out of memory, compose.yaml as it stands (needs Docker)
	@PYTHONPATH=tests $(BIN)/python -m docker.prove $(ARGS)

test-board: $(VENV)/sim.stamp ## A flashed card boots under QEMU, enrols by itself and trains, through power and link cuts (root, minutes)
	@PYTHONPATH=tests $(BIN)/python -m qemu.prove $(ARGS)

check: $(VENV)/dev.stamp ## Lint, types, floors and house limits, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy edge cloud models firmware_sim benchmarks
	$(BIN)/python -m pytest -q tests/house

bench-parity: $(VENV)/sim.stamp ## How far a step is from TensorFlow's own, for every model of the zoo
	@$(BIN)/python benchmarks/agreement.py $(ARGS)

bench-step: $(VENV)/sim.stamp ## A training step beside TensorFlow's own, for every model of the zoo
	@$(BIN)/python benchmarks/step_time.py $(ARGS)

bench-footprint: $(VENV)/sim.stamp ## Memory and disk of a device, beside TensorFlow and Flower (downloads 1.7 GB, minutes)
	@$(BIN)/python benchmarks/footprint.py $(ARGS)

bench-codecs: $(VENV)/sim.stamp ## Bytes up and what is learned with them, for each codec of updates
	@$(BIN)/python benchmarks/uplink.py $(ARGS)

bench-strategies: $(VENV)/sim.stamp ## What strategies learn round by round on devices whose data differ
	@$(BIN)/python benchmarks/strategies.py $(ARGS)

bench-attacks: $(VENV)/sim.stamp ## What robust rules learn where 30 % of the devices lie, beside the plain mean
	@$(BIN)/python benchmarks/attacks.py $(ARGS)

bench-storm: $(VENV)/sim.stamp ## A broker restarts under 1,000 clients: who is back when, beside plain paho (needs mosquitto)
	@$(BIN)/python benchmarks/storm.py $(ARGS)

bench-transport: $(VENV)/sim.stamp ## A blob over a bad link, updates a second, bytes of an idle month (needs mosquitto)
	@$(BIN)/python benchmarks/transport.py $(ARGS)

bench-aggregate: $(VENV)/sim.stamp ## Updates summed a second and in how much memory, beside Flower (downloads 0.1 GB, minutes)
	@$(BIN)/python benchmarks/aggregate.py $(ARGS)

bench-async: $(VENV)/sim.stamp ## Minutes until asynchronous rounds are as good as synchronous ones, in virtual time
	@$(BIN)/python benchmarks/asynchronous.py $(ARGS)

bench-round: $(VENV)/sim.stamp ## What a round costs besides training, and a device's memory, beside Flower (downloads 1.7 GB)
	@$(BIN)/python benchmarks/round.py $(ARGS)

bench-virtual: $(VENV)/sim.stamp ## A round of 1,000 simulated devices, beside Flower's engine (downloads 0.2 GB, minutes)
	@$(BIN)/python benchmarks/virtual.py $(ARGS)

bench-combine: $(VENV)/sim.stamp ## Updates summed a second on 1, 2 and 4 replicas, beside NumPy and TFF (with .venv-tff)
	@$(BIN)/python benchmarks/combine.py $(if $(wildcard $(TFF)/dev.stamp),--tff $(TFF)/bin/python) $(ARGS)

bench-refine: $(VENV)/sim.stamp ## What refining on the cloud's data brings at equal rounds, on devices whose data differ
	@$(BIN)/python benchmarks/refine.py $(ARGS)

format: $(VENV)/dev.stamp ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv-lock/uv.stamp ## Pin all dependencies anew, one lock per deployment unit
	$(LOCK) --extra edge pyproject.toml -o edge/lock.txt
	$(LOCK) --extra edge32 pyproject.toml -o edge/lock-32.txt
	$(LOCK) --extra sim --group dev pyproject.toml -o tests/lock.txt
	$(LOCK) --extra models -c tests/lock.txt pyproject.toml -o models/lock.txt
	$(LOCK) --extra cloud -c tests/lock.txt pyproject.toml -o cloud/lock.txt
	$(LOCK) --extra sim -c tests/lock.txt pyproject.toml -o firmware_sim/lock.txt
	$(filter-out --universal,$(LOCK)) tests/requirements-tff.txt -o tests/lock-tff.txt

clean: ## Remove environments, caches and runs
	rm -rf .venv .venv-tff .venv-lock .arm .board runs .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "fedfleet needs Python 3.11, 3.12 or 3.13; none was found on PATH"; exit 2; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/sim.stamp: firmware_sim/lock.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(PIP) --require-hashes -r firmware_sim/lock.txt
	$(BIN)/python $(PIP) --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: tests/lock.txt $(VENV)/sim.stamp
	$(BIN)/python $(PIP) --require-hashes -r tests/lock.txt
	@touch $@

$(TFF)/dev.stamp: tests/lock-tff.txt
	$(PYTHON311) -m venv $(TFF)
	$(TFF)/bin/python $(PIP) --no-deps --require-hashes -r tests/lock-tff.txt
	@touch $@

.venv-lock/uv.stamp:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) uv
	@touch $@
