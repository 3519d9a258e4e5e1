# Everything is set up on the first call of any target: an environment in .venv/, from requirements.lock.
ROOM := import os, shutil, sys; sys.exit(not os.path.exists(".venv") and shutil.disk_usage(".").free < 7e9)
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2> /dev/null && echo $$p && break; done)
BIN := .venv/bin
# Fast tests run side by side, on the cores that there are; slow ones start clusters, which Ray would take for each other's
SHARED := --numprocesses=logical --maxprocesses=4
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

.PHONY: demo test slow lint types bench lock clean

demo: .venv/installed  ## the study `quick`: a federation of digits, attacked; ends with a report
	$(BIN)/curious run studies/quick.toml --out runs/quick --resume

test: .venv/installed  ## the fast tier: a few minutes on two cores
	$(BIN)/python -m pytest $(SHARED)

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
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' || { echo "Curious needs Python 3.11 to 3.14, and found none: call make PYTHON=/path/to/python3.12"; exit 2; }
	@$(PYTHON) -c '$(ROOM)' || { echo "Curious needs 7 GB of free disk here for .venv: make room, or clone it onto a larger disk"; exit 2; }
	@echo "setting up .venv (PyTorch with its CUDA libraries, 7 GB on disk; this is done once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
