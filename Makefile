# Every job runs in a virtual environment of its own, made on first use.

# Makes the environments; any Python from 3.11 on.
PYTHON ?= python3
# Passed on to the script (`make run`), to `fatr-hf bench` (`make bench`) or to pytest (`make test`, `make test-oldest`).
ARGS ?=
# One process for each GPU, or several on the CPU.
PROCESSES ?= 1
# no, bf16 or fp16.
PRECISION ?= no
# Test processes, of one thread each.
WORKERS ?= 2

BIN := .venv/bin
PYTEST := -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help run bench study docs test quality style test-oldest test-stock clean

help: ## list the jobs
	@echo "make JOB [PYTHON=python3] [ARGS='...'], where JOB is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'

# Whatever `accelerate launch` is not told it warns of, and without a thread count it computes on one thread. Its --cpu
# starts one process whatever it is told; several on the CPU start as several GPUs' do.
run: .venv/.run ## fine-tune and evaluate: examples/finetune.py with ARGS, on PROCESSES GPUs or the CPU
	@options=$$($(BIN)/python -c 'import torch; \
		print("--num_cpu_threads_per_process", max(1, torch.get_num_threads() // $(PROCESSES)), \
			"--multi_gpu" if $(PROCESSES) > 1 else "" if torch.accelerator.is_available() else "--cpu")') && set -x && \
	$(BIN)/accelerate launch $$options --num_processes $(PROCESSES) --num_machines 1 \
		--mixed_precision $(PRECISION) --dynamo_backend no --quiet examples/finetune.py --resume_from_checkpoint true $(ARGS)

# Without ARGS a table in a few minutes, of ViT-B on a GPU, else of ViT-S; ARGS='--suite targets' holds the project's
# figures against what is to be reached.
bench: .venv/.run ## measure speed and cost beside the rivals: `fatr-hf bench` with ARGS
	$(BIN)/fatr-hf bench $(ARGS)

# Sized by the device; goes on where an earlier one stopped.
study: .venv/.run ## compare FATR, its ablations and its rivals: examples/study.py with ARGS
	$(BIN)/python examples/study.py $(ARGS)

# The variable silences a notice about MkDocs 2, which the constraints keep out.
docs: .venv/.complete ## build the documentation into build/site (ARGS=serve: show it while writing)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build) --strict

test: .venv/.complete ## run the tests (ARGS: pytest's)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(ARGS)

quality: .venv/.complete ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/.complete ## repair what of the style can be repaired
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

# Old releases warn of what newer ones mended: here a warning is no error.
test-oldest: .venv-oldest/.complete ## run the tests on the oldest supported versions, in .venv-oldest
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(PYTEST) -W default $(ARGS)

# transformers' tests are in its source distribution alone, and have marks and warnings of their own.
test-stock: .venv/.complete ## run transformers' own tests of models on every family
	@version=$$($(BIN)/python -c 'import transformers; print(transformers.__version__)') && set -x && \
	$(BIN)/python -m pip download -q --no-deps --no-binary :all: --no-build-isolation --dest build \
		transformers==$$version && \
	tar -xzf build/transformers-$$version.tar.gz -C build && \
	TRANSFORMERS_TESTS=build/transformers-$$version/tests HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
		$(BIN)/python $(PYTEST) -c /dev/null --rootdir . -p no:cacheprovider -q \
		tests/modeling/test_stock_suite.py $(ARGS)

clean: ## remove the environments, caches and build products
	rm -rf .venv .venv-oldest .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What runs and measurements need is installed first; tests, documentation and demo add to it.
.venv/.run: EXTRAS := training,benchmark,analysis
.venv/.complete .venv-oldest/.complete: EXTRAS := dev
.venv/.run .venv/.complete: constraints.txt
.venv/.complete: .venv/.run
.venv-oldest/.complete: constraints-oldest.txt

# Stamps are written last and removed before a change: an interrupted install leaves none, and the next one starts anew.
.venv/.run .venv/.complete .venv-oldest/.complete: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fatr-hf needs Python 3.11 or newer, which '$(PYTHON)' is not: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	if test -f $(@D)/.run; then rm -f $(@D)/.run $(@D)/.complete; else $(PYTHON) -m venv --clear $(@D); fi
	$(@D)/bin/python -m pip install --disable-pip-version-check -c $(filter constraints%,$^) -e '.[$(EXTRAS)]'
	@touch $(@D)/.run $@
