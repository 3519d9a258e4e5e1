# Everything is set up on the first call of any target: an environment in .venv/, from requirements.lock.
PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

.PHONY: demo test slow lint types bench lock clean

demo: .venv/installed  ## the study `quick`: a federation of digits, attacked; ends with a report
	$(BIN)/curious run studies/quick.toml --out runs/quick --resume

test: .venv/installed  ## the fast tier: a few minutes on two cores
	$(BIN)/python -m pytest

slow: .venv/installed  ## real attacks on real pictures; Flower and Ray end to end; kills
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed
	$(BIN)/pyright

bench: .venv/installed  ## ratios of speed, each measured in one run beside what it is compared with
	$(BIN)/python -m bench.overhead

lock: .venv/installed  ## writes requirements.lock from the environment as it is
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' \
	  | sed -E 's/^((nvidia|cuda|triton)[^=]*==.*)$$/\1 ; sys_platform == "linux"/' > requirements.lock

clean:  ## removes the environment; runs stay
	rm -rf .venv

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Curious needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: call make PYTHON=/path/to/python3.11")'
	@echo "setting up .venv (PyTorch with its CUDA libraries is some 5 GB; this is done once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
