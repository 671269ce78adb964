# make report   set up, run the experiment, write figures/*.png and report.html
# make test     set up, then every check there is
# make lab      open JupyterLab; LAB=... options for it, e.g. LAB=--allow-root
# PYTHON=...    the interpreter to start from (3.11 or newer); VENV=... the virtual environment to use or make

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.hrm_nb_installed

.DEFAULT_GOAL := help
.PHONY: help setup report test lab readme clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

$(STAMP): constraints.txt setup.py settings.ini tools/setup.sh
	@sh tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

report: setup
	@$(BIN)/hrm-nb report

test: setup
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest

lab: setup
	@$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb $(LAB)

readme: setup
	@$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) runs report.html build dist *.egg-info
