# Two commands: `make demo` sets up and runs the workflow on demo samples, `make test` sets up and
# runs the tests. Both need Python 3.11 or newer with pip, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# without its advertisement of another program
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

# several processes of the tests, to which whole files go, the longest first
TOGETHER := --dist loadfile --no-loadscope-reorder

# or the tests' modules are compiled anew each time, which takes longer than to import them
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast check docs lock clean

demo: $(STAMP)
	$(BIN)/snakemake

test: $(STAMP)
	$(BIN)/python -m pytest -n auto $(TOGETHER)

# those that start neither the workflow nor services, in less than two minutes
test-fast: $(STAMP)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 $(TOGETHER) -m "not chain and not slow"

# what continuous integration checks beside the tests
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(MKDOCS)

# the site, into .venv/site
docs: $(STAMP)
	$(MKDOCS)

# every version and hash from the lock; byte-compiled, since an import of coffea without its
# .pyc files takes four times as long
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "looseleaf needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

# renew the lock, and what the image needs of it; uv is needed for this alone
UV := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --quiet
lock:
	$(UV) pyproject.toml --all-extras --python-version 3.11 --output-file requirements.lock
	echo hatchling | $(UV) pyproject.toml - --extra kubernetes --extra xrootd --constraint requirements.lock --python-version 3.12 --no-annotate --output-file charts/requirements.lock

clean:
	rm -rf .venv results .snakemake
