# The verbs of the project; `make help` lists them. All that they need goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Matplotlib's font cache belongs to this environment, not to the user's home: a first
# run there would print a notice into a notebook.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib

.DEFAULT_GOAL := help
.PHONY: help book pdf epub test format catalogs links matrix bench sweep experiments lab refresh lock \
    clean

help:  ## list these verbs
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

book: $(READY)  ## build the HTML book to _build/html/index.html
	@echo "Building the book ..."
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is at $(CURDIR)/_build/html/index.html"

pdf: epub  ## print the whole book to _build/pdf (needs Chromium)
	$(BIN)/python -m publish.print.pdf
	$(BIN)/python -m publish.print.pdf --chinese

epub: $(READY)  ## bind the whole book for e-readers, in _build/epub
	$(BIN)/python -m publish.print.epub
	$(BIN)/python -m publish.print.epub --chinese

test: $(READY)  ## check the code, run the package's tests, re-run every notebook and compare its outputs
	@echo "Checking style and types ..."
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "Testing the package and the book: nbval re-runs each notebook and compares each output ..."
	$(BIN)/pytest
	@echo "All tests passed: each compared cell printed again what the book shows (the status page" \
	    "counts those that are not compared)."

format: $(READY)  ## mend what ruff can mend, lay out the code as `make test` wants it, and fold cells
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.fold

catalogs: book  ## bring the catalogues of the Chinese edition up to date, and name what is to translate
	$(BIN)/python -m publish.catalogs

links: $(READY)  ## ask for every address in the book's pages, and fail where one is gone (needs a network)
	@echo "Asking for each address; _build/links/_build/linkcheck/output.txt lists what is wrong ..."
	$(BIN)/jupyter-book build . --path-output _build/links --builder custom --custom-builder linkcheck

# A subset: make matrix ROWS="1 5", by the numbers in tools/matrix.py; ROWS=newest tries the newest
# releases, and keeps nothing.
matrix: $(READY)  ## run the tests and the notebooks with other versions, old and new (an hour)
	$(BIN)/python -m tools.matrix $(ROWS)

# A subset: make bench PARTS="imports ratios", by the names in tools/benchmark.py
bench: $(READY)  ## measure time and memory, and fail where a bound is missed (some minutes)
	$(BIN)/python -m tools.benchmark $(PARTS)

sweep: PARTS := sweep
sweep: bench  ## time the layer against Keras's in all kinds of circumstances (a quarter of an hour)

# A subset: make experiments NAMES=replicas. With KEEP=--keep the records are replaced.
experiments: $(READY)  ## run the experiments afresh, and compare them with their records (some hours)
	$(BIN)/python -m experiments $(KEEP) $(NAMES)

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab book

# A subset: make refresh NOTEBOOKS=book/moments.ipynb
NOTEBOOKS ?= $(wildcard book/*.ipynb)
refresh: $(READY)  ## run the notebooks afresh, store their outputs (then read the diff), and record a second run
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.kernel_name=python3 \
	    --ExecutePreprocessor.record_timing=False \
	    --ClearMetadataPreprocessor.enabled=True \
	    --ClearMetadataPreprocessor.clear_cell_metadata=False \
	    --ClearMetadataPreprocessor.preserve_nb_metadata_mask="{'kernelspec', ('language_info', 'name')}" \
	    $(NOTEBOOKS)
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams $(NOTEBOOKS)
	$(BIN)/python -m tools.fold
	$(BIN)/pytest --record $(NOTEBOOKS)

# One version of each package for all supported Pythons, so that they print the same.
lock: $(READY)  ## choose the newest versions that pyproject.toml allows and write requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --upgrade --quiet \
	    --universal --python-version 3.11 --fork-strategy fewest \
	    --generate-hashes --no-emit-index-url --no-annotate \
	    --custom-compile-command "make lock" --output-file requirements.txt

clean:  ## remove what was built; `rm -r .venv` removes the environment too
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	    "Python 3.11 to 3.13 is needed, but $(PYTHON) is %d.%d: try make PYTHON=python3.12" % v)'
	@echo "Setting up $(VENV) from requirements.txt (some minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -c "import matplotlib.font_manager"
	@touch $(READY)
