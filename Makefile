# make report      set up, run the experiment, write figures/*.png and report.html
# make figures     set up, draw figures/*/*.png again from results/, without training; ONLY="cycles ..." some of them
# make test        set up, then every check there is; make test-slow: those marked slow too
# make check       seconds: ruff, mypy and the habits of notebooks and rooms
# make export      package and README from the notebooks, notebooks cleaned
# make docs        all notebooks as a site in _docs/, with search; open _docs/index.html
# make lab         open JupyterLab; LAB=... options for it, e.g. LAB=--allow-root
# PYTHON=...       the interpreter to start from (3.11 or newer); VENV=... the virtual environment to use or make
# TESTS=...        what pytest is given, e.g. TESTS="--lf" or TESTS="tests/test_maze.py -k path"; WORKERS=... how many processes

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.hrm_nb_installed
PYTEST  := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=12

.DEFAULT_GOAL := help
.PHONY: help setup report figures test test-slow check export docs lab readme clean

help:
	@sed -n 's/^# make/make/p; s/^# \([A-Z]*=\)/\1/p' Makefile

setup: $(STAMP)

$(STAMP): constraints.txt setup.py settings.ini tools/setup.sh
	@sh tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

report: setup
	@$(BIN)/hrm-nb report

figures: setup
	@$(BIN)/hrm-nb figures $(if $(ONLY),--only $(ONLY))

test: setup
	@$(PYTEST) $(TESTS)

test-slow: setup
	@$(PYTEST) -m "" $(TESTS)

check: setup
	@s=0; for c in "ruff check --quiet --output-format concise" mypy "python tools/habits.py"; do $(BIN)/$$c || s=1; done; exit $$s

export: setup
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python tools/readme.py

docs: setup
	@$(BIN)/python tools/docs.py

lab: setup
	@$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/start.ipynb $(LAB)

readme: setup
	@$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) runs report.html build dist *.egg-info _docs _proc .mypy_cache .ruff_cache .pytest_cache
