# make demo and make test set up everything they need. Other interpreter: make demo PYTHON=python3.12. Other place: VENV=~/envs/llava-rad.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# Test files that run at the same time, each on one core; one after the other: PYTEST_ARGS=-n0.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=60 --durations-min=5
FAST := not slow and not nightly and not browser and not pacs and not gpu and not deepspeed and not referee

.DEFAULT_GOAL := help
.PHONY: help demo test test-all nightly differential acceptance phantom-train phantom-study lint format bench wheel clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed ## set up, then write findings for a real chest radiograph (PyPI package pydicom-data)
	$(BIN)/llava-rad generate --example

test: $(VENV)/.installed-test ## set up, then run the fast tests (7 minutes on two cores)
	$(PYTEST) -m "$(FAST)" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test ## every test that needs no CUDA device, except the nightly ones (25 minutes on two cores)
	$(PYTEST) -m "not gpu and not nightly" $(PYTEST_ARGS)

nightly: $(VENV)/.installed-test ## 10,000 mutations, kill loops, long runs, tutorials, 100,000 comparisons (an hour on two cores)
	$(PYTEST) -m "nightly and not gpu" $(PYTEST_ARGS); status=$$?; \
	$(PYTEST) -m "hypothesis and not nightly" --hypothesis-profile=fresh || status=1; \
	$(MAKE) differential && exit $$status

differential: $(VENV)/.installed-test ## compare with other packages on 100,000 cases of a new seed, which is printed
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.differential --keep build/differential

acceptance: $(VENV)/.installed-test ## every promise of reliability and security on one table; an hour on two cores
	OMP_NUM_THREADS=1 $(BIN)/python scripts/acceptance.py -n $(WORKERS) --dist loadfile --output docs/acceptance.md

phantom-train: $(VENV)/.installed-test ## train on drawn radiographs and score reports about others: does the chain learn to see?
	$(BIN)/python scripts/phantom_training.py $(or $(OUT),build/phantom-train)

phantom-study: $(VENV)/.installed-test ## the same with patients over time: does the model use lateral, prior and indication?
	$(BIN)/python scripts/phantom_study.py $(or $(OUT),build/phantom-study)

lint: $(VENV)/.installed-lint ## ruff, ruff format --check, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint ## let ruff mend and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## time reader, generator, metrics, pre-training, training, probes, review and service against other implementations
	$(BIN)/python -m scripts.bench.reader
	$(BIN)/python -m scripts.bench.generate
	$(BIN)/python -m scripts.bench.scoring
	$(BIN)/python -m scripts.bench.metrics $(if $(RADEVAL_PYTHON),--peer-python $(RADEVAL_PYTHON))
	$(BIN)/python -m scripts.bench.causes
	$(BIN)/python -m scripts.bench.pretraining $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))
	$(BIN)/python -m scripts.bench.training
	$(BIN)/python -m scripts.bench.probing
	$(BIN)/python -m scripts.bench.review
	$(BIN)/python -m scripts.bench.service

wheel: $(VENV)/.installed-test ## build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what builds and tests leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environment
	rm -rf $(VENV)

# Each stamp is touched only after its install succeeded, so that a broken download is taken up again and a second run is instant.
# Groups of pyproject.toml (PEP 735) need pip 25.1.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llava-rad needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml
	@echo "Installing into $(VENV): torch and its libraries are several GB and take a few minutes the first time"
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.pip pyproject.toml
	@echo "Installing into $(VENV): torch and its libraries are several GB and take a few minutes the first time"
	$(PIP) install --group test -e .
	@touch $(VENV)/.installed $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(PIP) install --group lint
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(PIP) install --group bench
	@touch $@
