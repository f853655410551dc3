# Two commands do everything: `make book` to read, `make test` to check. The others, in one line each: `make help`.

PORT ?= 8000
WIDTH ?= 24
EPOCHS ?= 20
RECIPE ?= paper
SEEDS ?= 0
JOBS ?= 1
OUT ?= runs/width$(WIDTH)-$(RECIPE)-$(EPOCHS)
NOTEBOOKS ?=
NAME ?=

export PYTHON
# GNU OpenMP's threads wait by spinning: beside other work a step of two threads takes twenty times as long.
export OMP_WAIT_POLICY ?= passive
VENV := .venv/bin
# Two processes a core: while one waits for a page or a kernel, another has its core.
SIDE_BY_SIDE := -n $$(($$(getconf _NPROCESSORS_ONLN) * 2)) --dist loadfile --no-loadscope-reorder
# First the file that builds the site and much besides: one process does that while the others run notebooks.
CHECKED := tests/project/test_publishing.py book tests
SITE := _build/html/.built
PAGES := $(shell find book -name runs -prune -o -name .ipynb_checkpoints -prune -o -type f -print)

.DEFAULT_GOAL := help
.PHONY: help setup book site offline lab test notebooks measure coverage links train bench record execute lint types clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with everything in requirements.txt; PYTHON=... names the Python it is made with
	@sh tools/setup.sh

book: site ## build the book; at a terminal, serve it on http://127.0.0.1:8000 (PORT=...)
	@if [ ! -t 1 ]; then echo _build/html/index.html; else \
	  echo "The book is at http://127.0.0.1:$(PORT)/ until you press Ctrl-C"; \
	  $(VENV)/python -m http.server --bind 127.0.0.1 --directory _build/html '$(PORT)' >_build/serve.log 2>&1 || \
	  { tail -n 1 _build/serve.log >&2; echo "try: make book PORT=8001" >&2; exit 2; }; \
	fi

site: $(SITE) ## only build the book, strictly, into _build/html

# A failed build leaves pages that a second one would take as read, without their warnings: they go.
# --all: without it a style sheet that changed alone would stay behind.
$(SITE): _config.yml _toc.yml $(PAGES) $(wildcard wnlib/*.py wnlib/lab/*.py book/figures/*) \
         tools/pack.py tools/plain.py tools/repository.py tools/setup_cell.py | setup
	@echo "Building the book, half a minute at most"
	@mkdir -p _build && rm -f $@
	@$(VENV)/jupyter-book build . --all -n -W --keep-going > _build/colored.log 2>&1; status=$$?; \
	sed "s/$$(printf '\033')\[[0-9;]*m//g" _build/colored.log > _build/site.log; rm _build/colored.log; \
	[ $$status = 0 ] || { \
	  grep -E 'WARNING|ERROR' _build/site.log >&2 || tail -n 20 _build/site.log >&2; \
	  echo "The book was not built, for the reasons above; the whole log is _build/site.log" >&2; \
	  rm -rf _build/.doctrees; exit 1; }
	@$(VENV)/python tools/pack.py
	@touch $@

offline: site ## one archive of the built book, read from a folder by double click, without a network
	@echo "_build/html/weight-normalization.zip: unpack it and open its index.html"

lab: site ## the notebooks in JupyterLab, in my-book/: yours to change; one that you delete comes back as it was
	@$(VENV)/python tools/pack.py my-book _build/notebooks
	@$(VENV)/jupyter-lab --notebook-dir my-book book/intro.ipynb

test: setup ## every test, and every notebook against its stored outputs
	@$(VENV)/python -m pytest $(SIDE_BY_SIDE) --nbval $(CHECKED)

coverage: setup ## all of that, and whether it reaches each line of the core and 95 % of the lab's
	@$(VENV)/python -m pytest $(SIDE_BY_SIDE) --nbval $(CHECKED) --cov=wnlib --cov-report=
	@status=0; \
	$(VENV)/coverage report --skip-covered --include='wnlib/*.py' --fail-under=100 || status=1; \
	$(VENV)/coverage report --skip-covered --include='wnlib/lab/**' --fail-under=95 || status=1; \
	exit $$status

notebooks: setup ## only the notebooks, against their stored outputs
	@$(VENV)/python -m pytest $(SIDE_BY_SIDE) --nbval book

measure: site ## what a reader waits for and carries, beside the targets, in Chromium
	@$(VENV)/python tests/browser/measure.py

links: setup ## whether every link that leads out of the book still leads somewhere; needs the network
	@rm -rf _build/links; mkdir -p _build/links; \
	$(VENV)/jupyter-book build . --all --builder linkcheck --path-output _build/links >_build/links.log 2>&1; \
	found=_build/links/_build/html/output.txt; \
	[ -e $$found ] || { tail -n 20 _build/links.log >&2; exit 1; }; \
	! grep -F '[broken]' $$found | grep -vE ': (401|403|406|418|429|503) ' >&2 # these turn programs away

train: setup ## the five, trained on all of CIFAR-10 (WIDTH, EPOCHS, RECIPE=paper|report, SEEDS, JOBS, OUT)
	@$(VENV)/python -m wnlib compare --full --recipes '$(RECIPE)' --width '$(WIDTH)' \
	  --epochs '$(EPOCHS)' --seeds '$(SEEDS)' --jobs '$(JOBS)' --out '$(OUT)'

bench: setup ## how long a training step takes, of the five and of the usual script
	@$(VENV)/python book/step_cost.py

record: setup ## one recorded experiment again (NAME=sweep; without a name, the names), into runs/
	@$(VENV)/python tools/record.py $(NAME)

execute: setup ## run every notebook again, in place (NOTEBOOKS="book/a.ipynb ..." for some)
	@$(VENV)/python tools/execute.py $(NOTEBOOKS)

lint: setup ## formatting, lint (notebooks and JavaScript included), types, and who may import whom
	@mkdir -p _build; status=0; \
	quietly() { "$$@" >_build/lint.log 2>&1 && return; status=1; cat _build/lint.log >&2; return 1; }; \
	quietly $(VENV)/ruff format --check --quiet . || echo "to format: .venv/bin/ruff format" >&2; \
	quietly $(VENV)/ruff check --quiet .; \
	quietly $(VENV)/oxlint --deny-warnings book/figures book/_static/*.js; \
	quietly env PYTHONPATH=book $(VENV)/lint-imports --no-cache; \
	quietly $(VENV)/basedpyright --level error; \
	exit $$status

types: setup ## only what the type checker has to say
	@$(VENV)/basedpyright --level error

clean: ## remove what was built; .venv and runs stay
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis .coverage
	@find wnlib tools tests book -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv, too
	@rm -rf .venv wnlib.egg-info
