# `make` lists the targets. Everything is installed into .venv; PYTHON selects the interpreter that creates it.

PYTHON ?= python3
RUN := .venv/bin/python
PHANTOM := demo/phantom

.PHONY: help setup demo test test-fast lint bench clean

help:
	@echo "make setup      install everything into .venv (other targets do this when needed)"
	@echo "make demo       render an endoscopic video and reconstruct it: trajectory, dense points, report"
	@echo "make test       run the tests; ARGS=... is passed to pytest"
	@echo "make test-fast  run the tests that take no more than a second or two each"
	@echo "make lint       run ruff and mypy"
	@echo "make bench      run all benchmarks; status 1 if a bound is violated"
	@echo "make clean      remove caches and the output of the demo; rm -r .venv removes the installation"

setup:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: LumenSfM needs Python 3.11 or later; select one with: make PYTHON=python3.11 setup" >&2; exit 1; }
	@"$(PYTHON)" tools/set_up.py

demo: setup
	@$(RUN) data_prep/phantom.py $(PHANTOM) --frames 60 --seed 0 --overwrite
	@$(RUN) reconstruct.py $(PHANTOM)/video.mp4 --calibration $(PHANTOM)/calibration.yaml --output demo/run \
		--train_minutes 2 --references 16
	@echo "errors against the ground truth of the phantom:"
	@$(RUN) -m sfm.evaluate demo/run --truth $(PHANTOM)
	@echo "open demo/run/report.html in a browser"

test: setup
	@$(RUN) -m pytest -n auto $(ARGS)

test-fast: setup
	@$(RUN) -m pytest -n auto -m "not slow" $(ARGS)

lint: setup
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

bench: setup
	@status=0; for benchmark in $$(grep -l __main__ benchmarks/*.py); do \
		echo "== $$benchmark"; $(RUN) "$$benchmark" || status=1; \
	done; exit $$status

clean:
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache lumensfm.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
