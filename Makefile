# make demo: set up, then train a SEGNN on charged particles, under the equality constraint and strictly.
# make test: set up, then run the fast tests.
# make docs: the site, into docs/_build/html; installing its packages needs a network, building it none.
# make release: sdist and wheel into dist/, checked, each tried in empty environments.
# make versions PYTHONS="python3.11 python3.13": the fast tests under each, with the newest packages.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
DOCS_STAMP := $(VENV)/installed_docs
DEMO := runs/demo_$(shell date +%Y%m%d-%H%M%S)
FIND := for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null; then echo $$p; break; fi; done

.PHONY: demo test slow versions install lint format types wheel docs release clean

demo: install
	$(PYTHON) -m experiments.nbody --constraint=equality --workdir=$(DEMO)/equality
	$(PYTHON) -m experiments.nbody --constraint=strict --workdir=$(DEMO)/strict
	$(PYTHON) -m experiments.table --folders=$(DEMO)

test: install
	$(PYTHON) -m pytest -n 3 --dist worksteal

slow: install
	$(PYTHON) -m pytest -m slow -n 2 --dist worksteal

versions:
	bash .ci/versions $(PYTHONS)

install: $(STAMP)

# The stamp is written last, so that an interrupted installation is taken up again.
$(STAMP): setup.py constraints.txt
	@python=$$($(FIND)); if [ -z "$$python" ]; then \
	echo "Python 3.11 or newer with the module venv is needed (Debian: apt install python3-venv)."; \
	exit 2; fi; \
	[ -x $(PYTHON) ] || $$python -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[dev]'
	@touch $@

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: install
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: install
	$(PYTHON) -m pyright

wheel: install
	bash .ci/wheel $(PYTHON)

docs: $(DOCS_STAMP)
	$(PYTHON) -m sphinx --quiet -W --keep-going -d .cache/doctrees -b html docs docs/_build/html
	$(PYTHON) docs/check_links.py docs/_build/html

$(DOCS_STAMP): $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

release: install
	bash .ci/release $(PYTHON)

clean:
	rm -rf $(VENV) build dist docs/_build docs/gathered *.egg-info .pytest_cache .ruff_cache
