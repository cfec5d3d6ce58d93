# Every target makes `.venv` first if it is not there or the lock has changed. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The autoregressive rows of the tables are answered by vLLM, whose pins exclude the environment above. VLLM_FOR: cpu or
# cuda.
VLLM := workflow/envs/vllm
VLLM_FOR ?= cpu
VLLM_LOCK := $(VLLM)/requirements$(if $(filter cuda,$(VLLM_FOR)),-cuda).lock
# Snakemake's rules call `t3d`, which lies beside it.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: demo report test test-faults test-remote test-slurm test-browser test-kernels test-vllm vllm-env check clean help

# A terminal shows Markdown's escapes as they are: the table is printed without them.
demo: $(VENV)/installed ## distil a diffusion LM on this machine and print Table 1
	snakemake --cores all
	@sed 's/\\\([^A-Za-z0-9 ]\)/\1/g' results/demo/table1.md
	@echo "Table 1 is in results/table1.csv, the figure in results/demo/figures/accuracy.png."

report: $(VENV)/installed ## one offline HTML page of what there is; makes the tables if they are not there
	snakemake results/report.html --cores all
	@echo "The report is $(CURDIR)/results/report.html: open it in a browser."

# A worker more than there are cores, since some tests wait for a clock; no more than four, since each takes 1 GB. One
# that has nothing left takes tests from the end of another's list: no long file ends the run alone.
WORKERS ?= $(shell echo $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 )))
SPREAD := --numprocesses $(WORKERS) --dist worksteal
test: $(VENV)/installed ## run the tests on every core
	pytest $(SPREAD) $(SELECTED)

# What tests/faults holds takes a third of the time: two minutes on two cores.
FAULTS ?= tests/faults tests/sandbox/test_attacks.py tests/provenance/test_archive.py tests/provenance/test_remote.py \
  tests/provenance/test_two_writers.py tests/workflow/test_dag.py
test-faults: $(VENV)/installed ## attacks, bad input, full disks, two writers, twenty kills: a scoreboard
	KILLS=20 pytest $(FAULTS) -k "not test_dag or through_kills" $(SPREAD)

test-remote: $(VENV)/installed ## publish to a server of S3 on this machine and fetch from it
	pytest -m remote

test-slurm: $(VENV)/installed ## start a Slurm cluster on this machine and run through it (root; slurmctld, slurmd, munge)
	pytest tests/slurm

test-browser: $(VENV)/installed ## open the report in a browser and use it (chromium, chromium-driver)
	pytest tests/browser

test-kernels: $(VENV)/installed ## interpret the engine's Triton kernels on this CPU (1 GB, two minutes)
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/triton triton==3.9.0
	TRITON_INTERPRET=1 PYTHONPATH=build/triton pytest -n 0 tests/decoding/test_kernels.py

test-vllm: $(VENV)/installed $(VLLM)/.venv/installed ## ask an autoregressive model through vLLM and through transformers
	pytest tests/vllm

vllm-env: $(VLLM)/.venv/installed ## vLLM for the autoregressive rows of the tables (4 GB)

check: $(VENV)/installed ## formatting, linting, the order of rooms, types
	ruff check .
	ruff format --check .
	lint-imports
	snakefmt --check Snakefile workflow
	mypy
	for file in Snakefile workflow/*.smk; do snakemake --lint --snakefile $$file || exit 1; done

# Other experiments took GPU hours, or were fetched: their artefacts, training states, copies and logs stay, and so do
# Snakemake's records, without which it cannot tell whether a file fits.
clean: ## remove the environments, caches and what the demo made; other experiments stay, and so do their records
	for copy in results/*.csv results/figures/*; do \
	  ! cmp -s "$$copy" "results/demo/$${copy#results/}" || rm -f "$$copy"; done
	! grep -qs "<title>T3D report: demo</title>" results/report.html || rm -f results/report.html
	rm -rf data/demo work/demo logs/demo
	rm -rf $(VENV) $(VLLM)/.venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

# Compiled on every core and without the packages' own tests: pip takes one core two minutes. A file that is no Python 3
# is none that is imported.
$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "T3D needs Python 3.11, 3.12 or 3.13; choose one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib t3d || true
	touch $@

$(VLLM)/.venv/installed: $(VLLM)/.venv/for-$(VLLM_FOR)
	touch $@

# Named by what it was built for, so that asking for the other one makes it anew.
$(VLLM)/.venv/for-$(VLLM_FOR): $(VLLM_LOCK) $(VLLM)/metadata/pyproject.toml
	rm -rf $(VLLM)/.venv
	$(PYTHON) -m venv $(VLLM)/.venv
	$(VLLM)/.venv/bin/pip install --quiet --no-deps -r $(VLLM_LOCK)
	$(if $(filter cpu,$(VLLM_FOR)),$(VLLM)/.venv/bin/pip install --quiet --no-deps --no-build-isolation $(VLLM)/metadata)
	touch $@
