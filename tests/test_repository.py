"The repository in step with itself: package, README and notebooks."
import filecmp
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from hrm_nb.files import load_tensors
from hrm_nb.recipes import build, made_from, recipe
from hrm_nb.runs import Run
from hrm_nb.shipped import about_shipped, shipped_puzzles
from hrm_nb.training import fit

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "What git tracks of the repository, in a folder of its own."
    target = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "hrm_nb"): shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py", "README.md"): shutil.copy(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q", str(target)], check=True)
    return target


def run(*command, cwd, **env):
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


def test_package_is_what_the_notebooks_export(copy):
    done = run(str(BIN / "nbdev_export"), cwd=copy)
    assert done.returncode == 0, done.stderr
    ours, theirs = [sorted(p.name for p in (d / "hrm_nb").glob("*.py")) for d in (ROOT, copy)]
    assert ours == theirs
    different = filecmp.cmpfiles(ROOT / "hrm_nb", copy / "hrm_nb", ours, shallow=False)[1:]
    assert different == ([], []), f"run nbdev_export: {different}"


def test_notebooks_are_clean(copy):
    done = run(str(BIN / "nbdev_clean"), cwd=copy)
    assert done.returncode == 0, done.stderr
    dirty = [str(p) for p in NOTEBOOKS if (ROOT / p).read_text() != (copy / p).read_text()]
    assert not dirty, f"run nbdev_clean: {dirty}"


def test_readme_is_what_the_index_makes():
    done = run(sys.executable, "tools/readme.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def code_blocks(markdown):
    "(language, text) of each fenced block; a fence that opens inside a block or never closes is an error."
    blocks, language, held = [], None, []
    for n, line in enumerate(markdown.splitlines(), 1):
        if not line.startswith("```"): held.append(line)
        elif language is None: language, held = line[3:].strip(), []
        else:
            assert line.strip() == "```", f"line {n}: {line} inside a block of {language or 'text'}"
            blocks.append((language, "\n".join(held)))
            language = None
    assert language is None, "the last block is not closed"
    return blocks


def test_code_blocks_of_the_readme():
    blocks = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    assert [b for b in blocks if not b[1].strip() or not b[0]] == []


@pytest.mark.parametrize("bad", ["```sh\nmake\n```python\n```", "```sh\nmake"])
def test_unbalanced_blocks_are_found(bad):
    with pytest.raises(AssertionError): code_blocks(bad)
    assert code_blocks("a\n```sh\nmake\n```\n```\n\n```") == [("sh", "make"), ("", "")]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_notebook_runs(notebook, tmp_path):
    "Top to bottom against the exported package, experiments on their real settings and two seeds; what they draw goes to a folder of its own."
    done = run(str(BIN / "nbdev_test"), "--path", str(notebook), "--n_workers", "1", cwd=ROOT, HRM_NB_OUT=str(tmp_path), HRM_NB_SEEDS="2",
               MPLBACKEND="agg")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    saved = [o for c in nbformat.read(ROOT / notebook, 4).cells for o in c.get("outputs", ()) if o.output_type == "error"]
    assert not saved, "the notebook holds a saved error"
    assert (ROOT / notebook).stat().st_size < 1.5e6


def test_a_run_on_maze_hard_is_scored_and_its_weights_kept(real, tool, monkeypatch, tmp_path, one_thread):
    "Two steps of the recipe, the test mazes asked after each reasoning step, the weights stored as those that ship are."
    real("maze-30x30-hard-1k")
    r = recipe("maze-hard-cpu", model=dict(halt_max_steps=2), train=dict(steps=2, eval_examples=2, held_out_examples=2, device="cpu"))
    model, train, test = build(r)
    run = fit(model, train, test.take([0]), r.train, tmp_path / "run", recipe=made_from("maze-hard-cpu", r))
    scored = tool("maze_hard_cpu")
    def call(*options):
        monkeypatch.setattr(sys, "argv", ["maze_hard_cpu.py", str(run.path), "--out", str(tmp_path), "--limit", "2", *options])
        scored.main()
    call("--test", "--ship", "--fresh", "2", "--models", str(tmp_path / "models"))
    table, about = pd.read_csv(tmp_path / "test.csv"), about_shipped("maze-hard-cpu", tmp_path / "models")
    assert table.steps.tolist() == [1, 2, 3, 4] and (table.of == 2).all() and (table.cells > 0).all() and "exact_surest" in table
    assert about["train"] == run.config["train"] and about["scores"]["fresh"]["count"] == 2 and about["scores"]["seen"] == 0
    assert shipped_puzzles("maze-hard-cpu", 1, folder=tmp_path / "models").domain.shape == (30, 30)
    assert len(pd.read_csv(tmp_path / "test_mazes.csv")) == 2 and len(pd.read_csv(tmp_path / "history.csv")) == len(run.history)
    for _ in range(2): call("--choice")
    chosen = pd.read_csv(tmp_path / "choices.csv")
    assert len(chosen) == 1 and chosen.of[0] == 2 and chosen.steps[0] == 2 and chosen.arch[0] == "trm" and chosen.commit[0]
    assert chosen.valid[0] >= chosen.optimal[0] >= chosen.exact[0] == round(2 * run.history.held_out_exact_accuracy.iloc[-1])


def test_answers_by_reasoning_steps(tool):
    "Of two mazes one is right at first and wrong later, surest while it is right; the other halts late."
    answers = pd.DataFrame(dict(maze=[0, 1, 0, 1, 0, 1], step=[1, 1, 2, 2, 3, 3], q_halt=[2., -3., 1., -1., -2., 4.],
                                exact=[True, False, False, False, False, True], accuracy=[1., .5, .5, .5, .5, 1.]))
    table = pd.DataFrame(tool("maze_hard_cpu").by_steps(answers.assign(optimal=answers.exact, valid=True), {})).set_index("steps")
    assert table.exact.tolist() == [1, 0, 1] and table.exact_halting.tolist() == [1, 1, 2] and table.exact_surest.tolist() == [1, 1, 2]
    assert table.steps_halting.tolist() == [1, 1.5, 2] and table.valid_surest.tolist() == [2, 2, 2]


FULL_SIZE = {"summary.json", "timing.json", "training_history.json", "steps.csv", "test_never.csv", "test_learned.csv", "run"}


def test_the_full_size_script_on_trial():
    done = run(sys.executable, str(ROOT / "tools" / "maze_hard.py"), "--trial", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split("results in ")[1].split(";")[0])
    assert {p.name for p in folder.iterdir()} == FULL_SIZE
    assert "valid" in (folder / "test_never.csv").read_text().splitlines()[0]
    shutil.rmtree(folder)


@pytest.fixture
def tool(monkeypatch):
    "A function name -> module of tools/."
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module


@pytest.fixture
def sudoku(tool, monkeypatch, capsys, one_thread):
    "A function (folder, *options) -> what a trial of the sudoku script prints last."
    def call(out, *more):
        monkeypatch.setattr(sys, "argv", ["sudoku_extreme.py", "--trial", "--out", str(out), *more])
        tool("sudoku_extreme").main()
        return capsys.readouterr().out.splitlines()[-1]
    return call


def test_the_sudoku_script_on_trial(sudoku, tmp_path):
    assert "results in" in sudoku(tmp_path, "--recipe", "hrm-sudoku", "--test", "12")
    assert {p.name for p in tmp_path.iterdir()} == FULL_SIZE
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test"]["asked"] == 12 and summary["test"]["of"] == 20 and summary["train_s"] > 0
    for halt in ("never", "learned"):
        table = pd.read_csv(tmp_path / f"test_{halt}.csv")
        assert len(table) == summary["evaluation"][halt]["count"] == 12 and table.exact.sum() == summary["evaluation"][halt]["right"]
        assert table.accuracy.mean() == pytest.approx(summary["evaluation"][halt]["accuracy"])
    with pytest.raises(ValueError, match="seed was 0, now 1"): sudoku(tmp_path, "--recipe", "hrm-sudoku", "--seed", "1")


def test_a_trial_in_pieces_ends_with_the_same_bits(sudoku, tool, tmp_path, monkeypatch):
    whole, cut, soon = tmp_path / "whole", tmp_path / "cut", ("--recipe", "trm-sudoku", "--minutes", "1e-9")
    sudoku(whole, *soon[:2])
    assert "time is up in the training" in sudoku(cut, *soon)
    assert Run(cut / "run").checkpoints.step.max() == 1 and not (cut / "summary.json").exists()
    assert "results in" in sudoku(cut, *soon[:2])
    (ours, state), (theirs, _) = (load_tensors(f / "run" / "checkpoints" / "final" / "model.safetensors") for f in (cut, whole))
    assert state["step"] == 4 and ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in ("test_never.csv", "test_learned.csv", "steps.csv"): assert (cut / name).read_bytes() == (whole / name).read_bytes()

    shutil.rmtree(cut / "run" / "evaluation")                            # the test puzzles in parts of eight, a call each
    (cut / "summary.json").unlink()
    monkeypatch.setattr(tool("gpu_run"), "PART", 8)
    for _ in range(5): assert "time is up in the evaluation" in sudoku(cut, *soon) and not (cut / "summary.json").exists()
    assert "results in" in sudoku(cut, *soon)
    parts, once = (json.loads((f / "summary.json").read_text())["evaluation"] for f in (cut, whole))
    for halt in once:
        for name in once[halt].keys() - {"seconds", "halting"}: assert parts[halt][name] == pytest.approx(once[halt][name], rel=1e-4)


def test_the_full_size_script_trains_in_the_fastest_mode(tool, monkeypatch):
    gpu_run = tool("gpu_run")
    def fake(shape, device, targets, sizes, compile=False, cuda_graphs=False):
        if cuda_graphs: raise RuntimeError("no compiler\nmore of it")
        return [dict(figure="limit", value=.001), dict(figure="step", value=.02 if compile else .03)]
    monkeypatch.setattr(gpu_run.bench, "training_step", fake)
    rows, failed, mode = gpu_run.timed("maze", "cuda", gpu_run.bench.GPU_MODES)
    assert mode == {"compile": True} and len(rows) == 4
    assert list(failed.values()) == ["RuntimeError: no compiler"]
    assert gpu_run.timed("maze", "cpu", ()) == ([], {}, {})
