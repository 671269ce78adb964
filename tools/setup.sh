#!/bin/sh
# Make or complete the virtual environment: setup.sh PYTHON VENV. A torch 2.13.0 that is there already is kept.
set -eu
python=$1 venv=$2
say() { echo "hrm_nb: $*" >&2; exit 1; }

[ -f settings.ini ] || say "run make in the repository's folder"
command -v git >/dev/null 2>&1 || say "git is not installed; install it and run make again"
command -v "$python" >/dev/null 2>&1 || say "no interpreter $python; set PYTHON to Python 3.11 or newer, e.g. make PYTHON=python3.12 report"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  say "$python is Python $("$python" -c 'import platform; print(platform.python_version())'); Python 3.11 or newer is needed: make PYTHON=python3.12 report"
"$python" -c 'import ensurepip, venv' 2>/dev/null || say "$python lacks the venv module; install it (Debian: python3-venv)"

torch='import torch, sys; sys.exit(torch.__version__.split("+")[0] != "2.13.0")'
if [ ! -x "$venv/bin/python" ]; then
  shared=
  if "$python" -c "$torch" 2>/dev/null; then shared=--system-site-packages; fi
  echo "making $venv${shared:+ on top of the torch that $python has}"
  "$python" -m venv $shared "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
if ! "$venv/bin/python" -c "$torch" 2>/dev/null; then
  echo "installing torch 2.13.0"
  pip install -q torch==2.13.0
fi
echo "installing the pinned packages"
pip install -q -c constraints.txt "setuptools" "wheel"
# compat: a path entry, behind which a clone folder that is called hrm_nb as well cannot hide the package
pip install -q -c constraints.txt --no-build-isolation --use-pep517 --config-settings editable_mode=compat -e '.[dev]'
