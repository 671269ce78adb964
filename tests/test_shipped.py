"The models that come with the package: what is recorded of them holds, and they are found wherever the package is."
import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

import hrm_nb
from hrm_nb import patterns, sudoku
from hrm_nb.evaluation import evaluate, solve
from hrm_nb.files import load_tensors
from hrm_nb.model import ReasonerConfig
from hrm_nb.puzzles import overlap
from hrm_nb.recipes import RECIPES, SudokuData, recipe
from hrm_nb.runs import shipped, shipped_models, shipped_puzzles
from hrm_nb.shipped import about_shipped, models_folder, restore_data
from hrm_nb.trainer import TrainConfig

ROOT = Path(__file__).parent.parent
NAMES = sorted(p.name for p in (ROOT / "data" / "models").iterdir() if not p.name.startswith("."))
every = pytest.mark.parametrize("name", NAMES)
COUNT, SEED = 300, 77  # no seed of training, of a choice or of the recorded scores


def agrees(right, count, about):
    "Whether so many right answers are what the recorded share lets expect, the record's own uncertainty included."
    s = about["scores"].get("fresh", about["scores"])  # a published test set cannot be drawn again, its like can
    low, high = proportion_confint(round(s["exact"] * s["count"]), s["count"], alpha=.01, method="wilson")
    return binomtest(right, count, low, alternative="less").pvalue > .001 and binomtest(right, count, high, alternative="greater").pvalue > .001


def test_a_worse_model_would_be_noticed():
    about = dict(scores=dict(exact=.99, count=2000))
    assert agrees(297, 300, about) and agrees(300, 300, about)
    assert not agrees(285, 300, about) and not agrees(300, 300, dict(scores=dict(exact=.95, count=2000)))


def test_the_promised_are_there(): assert {"copy-increment", "sudoku-4x4", "sudoku-6x6", "maze-10x10", "maze-hard-cpu"} <= set(NAMES)


@every
def test_the_score_holds_on_fresh_puzzles(name):
    about = about_shipped(name)
    puzzles = shipped_puzzles(name, 100 if "fresh" in about["scores"] else COUNT, SEED)  # 30x30 takes its time
    assert SEED not in (about["scores"]["seed"], about["data"]["fields"]["seed"], about["data"]["fields"]["seed"] + 1)
    result = evaluate(shipped(name), puzzles)
    right = int(result.puzzles.exact.sum())
    assert agrees(right, len(puzzles), about), f"{right} of {len(puzzles)}, recorded {about['scores']['exact']}"


@every
def test_the_record_is_whole(name):
    about = about_shipped(name)
    assert set(about) - {"tasks"} == {"recipe", "model", "data", "train", "seed", "environment", "scores"}
    assert about["recipe"] == name and name in RECIPES
    s, made_on = about["scores"], about["environment"]
    assert s["right"] == round(s["exact"] * s["count"]) and s["low"] <= s["exact"] <= s["high"] + 1e-9
    assert {"seconds", "selection", "steps", "seed", "seen"} <= set(s) and s["seconds"] > 0
    assert made_on["commit"] and made_on["device_name"] and made_on["torch"] and made_on["seed"] == about["seed"]
    ReasonerConfig.from_dict(about["model"])
    TrainConfig.from_dict(about["train"])


@every
def test_the_weights_are_those_of_the_recipe_as_it_stands(name):
    "A recipe changed later needs its weights made anew: what is stored says so."
    about, r = about_shipped(name), RECIPES[name]
    assert restore_data(about["data"]) == r.data
    assert TrainConfig.from_dict(about["train"] | dict(device=r.train.device, seed=r.train.seed)) == r.train
    sizes = {k: about["model"][k] for k in ("vocab_size", "seq_len", "num_puzzle_identifiers")}
    assert ReasonerConfig.from_dict(about["model"]) == dataclasses.replace(r.model, **sizes)


def test_small_enough():
    table = shipped_models()
    assert table.name.tolist() == NAMES and table.bytes.sum() < 2e6
    assert sum(f.stat().st_size for f in (ROOT / "data" / "models").rglob("*") if f.is_file()) < 2e6
    assert {"name", "domain", "shape", "parameters", "bytes", "exact", "count", "recipe"} <= set(table)
    size = table.set_index("name").bytes
    assert size["sudoku-4x4"] < 3e5 and size["sudoku-6x6"] < 7e5


@pytest.mark.parametrize("name, box", [("sudoku-4x4", (2, 2)), ("sudoku-6x6", (2, 3))])
def test_puzzles_of_the_generator_at_its_defaults(name, box):
    "What anybody draws is what it was trained for; and one grid is answered by itself."
    puzzles = sudoku.generate(100, box=box, seed=4242)
    model = shipped(name)
    assert evaluate(model, puzzles).summary["exact_accuracy"] >= about_shipped(name)["scores"]["exact"] - .04
    assert shipped_puzzles(name, 5, 4242).domain == puzzles.domain
    answer = solve(model, puzzles.inputs[0].reshape(puzzles.domain.shape))
    assert answer.shape == puzzles.domain.shape


def test_the_generator_of_patterns_too():
    assert evaluate(shipped("copy-increment"), patterns.make(200, seed=4242)).summary["exact_accuracy"] > .98


@pytest.mark.parametrize("name", ["sudoku-4x4", "sudoku-6x6"])
def test_relatives_are_counted(name):
    "Of 4x4 every test puzzle is a training puzzle turned and renamed, of 6x6 hardly one."
    s = about_shipped(name)["scores"]
    fresh, data = shipped_puzzles(name, 200, SEED), recipe(name).data
    train, test = SudokuData("generate", box=data.box, train=300, test=100, seed=data.seed).load()
    assert len(overlap(train, test)) == 0
    seen = set(map(bytes, sudoku.canonical(train.inputs)))
    share = np.mean([bytes(form) in seen for form in sudoku.canonical(fresh.inputs)])
    assert (share > .9 and s["relatives"] == 1) if name == "sudoku-4x4" else (share < .05 and s["relatives"] < .1)


# ---- wherever the package is

def test_found_from_another_folder_and_within_a_package(tmp_path, monkeypatch):
    "In a checkout beside the package, from any folder; in an installed wheel within it; nowhere else."
    monkeypatch.chdir(tmp_path)
    assert shipped_models().name.tolist() == NAMES
    monkeypatch.setattr(hrm_nb, "__file__", str(tmp_path / "site" / "hrm_nb" / "__init__.py"))
    assert len(shipped_models()) == 0
    with pytest.raises(ValueError, match="no model 'sudoku-4x4' in .*there are none"): shipped("sudoku-4x4")
    shutil.copytree(ROOT / "data" / "models" / "sudoku-4x4", tmp_path / "site" / "hrm_nb" / "models" / "sudoku-4x4")
    shutil.copytree(ROOT / "data" / "models" / "sudoku-4x4", tmp_path / "site" / "hrm_nb" / "models" / ".sudoku-4x4.part")
    assert shipped_models().name.tolist() == ["sudoku-4x4"]


def test_damage_is_named(tmp_path):
    shutil.copytree(models_folder() / "sudoku-4x4", tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="model.safetensors: truncated"): shipped("a", folder=tmp_path)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="does not match|do not match"): shipped("a", folder=tmp_path)
    file.unlink()
    with pytest.raises(OSError, match="no such file"): shipped("a", folder=tmp_path)
    with pytest.raises(ValueError, match=r"no model 'sudoku-9x9' in .*there are .*copy-increment, .*sudoku-4x4"): shipped("sudoku-9x9")


@pytest.fixture
def tool(monkeypatch, one_thread):
    spec = importlib.util.spec_from_file_location("ship_tool", ROOT / "tools" / "ship.py")
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    monkeypatch.setattr(module, "COUNT", 100)
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["ship.py", *map(str, args)])
        module.main()
    run.module = module
    return run


def test_the_tool_chooses_weights_as_those_that_ship_were_chosen(tool):
    for name in RECIPES:
        if not (ROOT / "data" / "models" / name).exists() or name == "maze-hard-cpu": continue  # by a tool of its own
        rule = about_shipped(name)["scores"]["selection"]["rule"]
        assert (rule == "the last weights") == (name in tool.module.LAST), f"{name}: {rule}"


def test_the_tool_makes_one_and_does_not_overwrite(tool, tmp_path, capsys):
    small = ("copy-increment", "--steps", 10, "--out", tmp_path)
    tool(*small)
    file, record = tmp_path / "copy-increment" / "model.safetensors", about_shipped("copy-increment", tmp_path)
    first, _ = load_tensors(file)
    assert shipped_models(tmp_path).name.tolist() == ["copy-increment"] and record["scores"]["count"] == 100
    with pytest.raises(SystemExit): tool(*small)
    assert "--replace puts a new one" in capsys.readouterr().err
    tool(*small, "--replace")
    second, _ = load_tensors(file)
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first), "the same command made other weights"
    assert record["scores"]["selection"]["rule"].startswith("best exact")
    tool(*small, "--replace", "--last")
    assert about_shipped("copy-increment", tmp_path)["scores"]["selection"] == dict(rule="the last weights", step=10, evaluations=0)
    tool("copy-increment", "--out", tmp_path, "--rescore")
    assert about_shipped("copy-increment", tmp_path)["scores"]["cells"] == record["scores"]["cells"]
    with pytest.raises(SystemExit): tool("maze-hard", "--out", tmp_path)
    assert "holds no puzzles out" in capsys.readouterr().err
