"The habits of the repository: kept by the notebooks and the package, and each rule catches what it is for."
import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
spec = importlib.util.spec_from_file_location("habits_tool", ROOT / "tools" / "habits.py")
habits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(habits)
RULES = ("exported cells are short", "no code line is too wide", "each exported cell is followed by a check, an example or a picture",
         "imports stand alone", "methods are inside their classes", "imports run towards smaller numbers", "private names stay in their room",
         "modules are short", "rooms 10 to 31 show pictures", "kinds of puzzles are named in their rooms only", "imports are in order")


@pytest.fixture(scope="module")
def faults(): return habits.faults()


@pytest.mark.parametrize("rule", RULES)
def test_habit(faults, rule):
    assert set(faults) == set(RULES)
    assert not faults[rule], "\n".join(faults[rule])


def test_the_rules_see_the_house():
    "The rooms and cells are found at all, so that an empty list of faults means something."
    assert len(habits.rooms()) >= 17 and set(habits.rooms()) <= set(habits.modules())
    assert {"sudoku", "model", "training"} <= set(habits.rooms())
    assert sum(habits.is_exported(s) for p in habits.notebooks() for _, s in habits.code_cells(p)) > 100
    assert sum(1 for s in habits.modules().values() for _ in habits.imported_rooms(s)) > 40


# ---- tools from outside

@pytest.mark.parametrize("command", [("ruff", "check"), ("mypy",)], ids=lambda c: c[0])
def test_linter(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


# ---- each rule catches what it is for

@pytest.fixture
def notebook(tmp_path):
    "A function (sources of code cells) -> path of a notebook of them."
    def make(*sources, outputs=()):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
        if outputs: nb.cells[-1].outputs = list(outputs)
        nbformat.write(nb, tmp_path / "10_x.ipynb")
        return tmp_path / "10_x.ipynb"
    return make


def lines(n): return "#| export\n" + "\n".join(f"a{i} = {i}" for i in range(n - 1))


def test_long_cells_are_found(notebook):
    assert habits.cell_size_faults(notebook(lines(40), lines(20), lines(5))) == []
    (fault,) = habits.cell_size_faults(notebook(lines(41), lines(5), lines(5)))
    assert "cell 0: 41 lines" in fault
    (fault,) = habits.cell_size_faults(notebook(lines(21), lines(21), lines(5)))
    assert "median of 21" in fault
    assert habits.cell_size_faults(notebook("\n" * 99)) == []


def test_wide_lines_are_found(notebook):
    assert habits.line_length_faults(notebook("a = 1" + " " * 115)) == []
    (fault,) = habits.line_length_faults(notebook("a = 1\nb = 2" + " " * 116))
    assert "cell 0, line 2: 121 characters" in fault


@pytest.mark.parametrize("cells, where", [
    (("#| export\nimport os", "#| export\nx = 1", "x"), []),
    (("#| export\nx = 1", "#| export\ny = 1", "x, y"), [0]),
    (("#| export\nx = 1", "import os", "#| hide\n# nothing", "#| export\ny = 1", "x, y"), [0]),
    (("#| exporti\nx = 1", "#| hide\nassert x", "#|export\ny = 1"), [2]),
    (("#| export\nx = 1", "#| export\nimport os", "%time x"), [0]),
])
def test_cells_without_a_check_are_found(notebook, cells, where):
    faults = habits.unshown_faults(notebook(*cells))
    assert [int(f.split("cell ")[1].split(":")[0]) for f in faults] == where


def test_mixed_imports_are_found(notebook):
    assert habits.mixed_import_faults(notebook("#| export\nimport os\nimport re", "#| export\nx = 1", "import os\nos.sep")) == []
    assert len(habits.mixed_import_faults(notebook("#| export\nimport os\nx = os.sep"))) == 1


def test_pictures_are_counted(notebook):
    def out(data): return nbformat.v4.new_output("display_data", data=data)
    assert habits.pictures(notebook("x", outputs=[out({"text/plain": "Figure"})])) == 0
    assert habits.pictures(notebook("x", outputs=[out({"image/png": "x"}), out({"text/html": "<b><svg>"})])) == 2


@pytest.mark.parametrize("source, n", [
    ("class A:\n    x = 1\n    def f(self): self.y = 1", 0),
    ("class A: pass\ndef f(x): pass\nA.f = f", 1),
    ("from .x import A\nA.f = classmethod(len)", 1),
    ("class A: pass\nif 1:\n    A.f, A.g = len, len", 2),
    ("class A: pass\nfor n in 'ab': setattr(A, n, len)", 1),
    ("def _f(self, x): pass", 1),
    ("try: pass\nexcept OSError:\n    def f(self, x): pass", 1),
    ("def f():\n    def g(self): pass\n    x.y = 1", 0),
])
def test_methods_outside_classes_are_found(source, n): assert len(habits.method_faults("x", source)) == n


@pytest.mark.parametrize("source, n", [
    ("from .low import f", 0),
    ("import os, json", 0),
    ("from .high import f", 1),
    ("from . import high", 1),
    ("from hrm_nb import low, high as h", 1),
    ("from hrm_nb.high import f", 1),
    ("import hrm_nb.high", 1),
    ("def f():\n    from .high import g", 1),
    ("def f():\n    import importlib\n    return importlib.import_module('hrm_nb.high')", 1),
    ("from importlib import import_module as i\nimport_module('.high', 'hrm_nb')", 1),
    ("from .here import f", 1),
])
def test_upward_imports_are_found(source, n):
    assert len(habits.import_direction_faults("here", source, {"low": 0, "here": 3, "high": 20})) == n


@pytest.mark.parametrize("source, n", [
    ("from .low import f\nf._x", 0),
    ("from .low import _f", 1),
    ("def g():\n    from hrm_nb.low import _f as f", 1),
    ("from .low import *", 1),
    ("from . import low\nlow.__name__, low.f", 0),
    ("from . import low as l\nl._f()", 1),
    ("import hrm_nb.low\nhrm_nb.low._f()", 1),
    ("import os\nos._exit(0)", 0),
])
def test_private_names_are_found(source, n): assert len(habits.private_name_faults("here", source)) == n


def test_long_modules_are_found():
    assert habits.module_length_faults("x", "\n" * 450) == [] and habits.module_length_faults("sudoku", "\n" * 900) == []
    assert len(habits.module_length_faults("x", "\n" * 451)) == 1


@pytest.mark.parametrize("source, n", [
    ("'a maze here'\ndef f():\n    'A sudoku.'\n    return 'mazes', 'archive', copy", 0),
    ("x = 'maze'", 1),
    ("x = f'{a} of the ARC kind'", 1),
    ("x = dict(colour={'copy': 1, 'increment': 2})", 2),
    ("from .maze import solve", 1),
    ("x = 'owner/HRM-sudoku-extreme'", 1),
])
def test_named_domains_are_found(source, n): assert len(habits.domain_word_faults("here", source)) == n


def test_published_repositories_may_be_named():
    assert habits.domain_word_faults("published", "x = 'owner/HRM-sudoku-extreme'") == []
    assert len(habits.domain_word_faults("published", "x = 'a sudoku'")) == 1
    assert habits.is_general("puzzles", 2) and habits.is_general("training", 24) and habits.is_general("figures", 31)
    assert not habits.is_general("maze", 7) and not habits.is_general("recipes", 25) and not habits.is_general("cli", 40)


@pytest.mark.parametrize("source, n", [
    ("import os, sys\nfrom pathlib import Path\n\nimport torch\n\nfrom .x import A_B, Carry, step", 0),
    ("import sys, os", 1),
    ("import torch\nimport os", 1),
    ("from pathlib import Path\nimport os", 1),
    ("from .x import step, Carry", 1),
    ("def f():\n    from .x import y\n    import os", 1),
    ("import os\nx = 1\nimport json", 0),
])
def test_disordered_imports_are_found(source, n):
    ast.parse(source)
    assert len(habits.import_order_faults("here", source)) == n
