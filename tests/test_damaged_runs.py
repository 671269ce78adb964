"""Damaged run folders at the command line: one line that names the file or field, a status other than 0, no traceback.

Every case is a copy of one small run with one thing in it changed; every command that reads runs is tried on it in this process.
"""
import json
import os
import shutil

import pandas as pd
import pytest

from hrm_nb import cli, looking, training
from hrm_nb.cli import main
from hrm_nb.runs import HISTORY, Run, load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ["--data.train", "64", "--data.test", "20", "--data.size", "3", "--model.hidden-size", "32", "--model.puzzle-emb-ndim", "32", "--model.expansion", "1",
        "--train.steps", "4", "--train.batch-size", "16", "--train.device", "cpu", "--train.log-every", "2"]
PUZZLE = "120\n210\n111"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A finished run with two checkpoints of steps."
    path, drawn = tmp_path_factory.mktemp("damaged") / "whole", cli._draw_and_say
    cli._draw_and_say = lambda *_: None
    try: main(["train", "copy-increment", "--run", str(path), "--train.checkpoint-every", "2", *TINY])
    finally: cli._draw_and_say = drawn
    return path


@pytest.fixture
def spoiled(whole, tmp_path, monkeypatch):
    "A function that makes tmp_path/run from the whole run, with JSON of one file changed; the working folder is tmp_path."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "run")
    def change(file, value):
        path = tmp_path / "run" / file
        if callable(value): value = value(json.loads(path.read_text()))
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return tmp_path / "run"
    return change


COMMANDS = {"evaluate": ["evaluate", "run", "--device", "cpu"], "compare": ["compare", "run", "whole", "--device", "cpu"],
            "checkpoints": ["compare", "run", "--device", "cpu"], "report": ["report", "run", "--device", "cpu"], "resume": ["resume", "run"],
            "changed": ["resume", "run", "--accept-changes"], "watch": ["watch", "run", "--every", "0"], "solve": ["solve", PUZZLE, "--run", "run"]}


def refused(capsys, argv, *words):
    "The one line on standard error of a command that ends with status 2; it holds the words."
    with pytest.raises(SystemExit) as e: main(argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "batch/s]" not in line and "step/s" not in line]
    assert e.value.code == 2 and len(lines) == 1 and lines[0].startswith("hrm-nb: "), lines
    for word in words: assert word in lines[0], (word, lines[0])
    return lines[0]


def put(*keys_and_value):
    "A change of JSON: the value under the keys replaced, or taken out where it is ..."
    *keys, last, value = keys_and_value
    def change(config):
        place = config
        for key in keys: place = place[key]
        if value is ...: del place[last]
        else: place[last] = value
        return config
    return change


# ---- configuration

@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("config, words", [
    ({}, ["run/config.json", "model is missing"]), ([], ["run/config.json", "holds list"]), (put("model", ...), ["run/config.json", "model is missing"]),
    ("[" * 10 ** 5, ["run/config.json", "not valid JSON"]), ("{", ["run/config.json", "not valid JSON"]), (put("steps", "x"), ["run/config.json", "steps is 'x'"]),
    (put("data", "test", {"stored": True}), ["run/config.json", "data.test: hash is None"]), (" " * (2 ** 20 + 1), ["run/config.json", "at most 1,048,576"]),
    (put("data", "test", "domain", 7), ["run/config.json", "data.test: domain is 7"])], ids=lambda v: " ".join(v)[-20:] if isinstance(v, list) and v else "")
def test_a_configuration_that_is_none(spoiled, capsys, command, config, words):
    spoiled("config.json", config)
    refused(capsys, COMMANDS[command], *words)


@pytest.mark.parametrize("model, words", [(put("model", "hidden_size", 64), ["is (32,), the configuration needs (64,)"]),
                                          (put("model", "hidden_size", 8192), ["is (32,), the configuration needs (8192,)"]),
                                          (put("model", "hidden_size", "x"), ["run/config.json: model: hidden_size is 'x'"]),
                                          (put("model", {}), ["run/config.json: model: ReasonerConfig needs"])], ids=["wider", "huge", "word", "empty"])
@pytest.mark.parametrize("command", ["evaluate", "compare", "checkpoints", "changed", "solve", "resume"])
def test_a_model_that_was_edited(spoiled, capsys, command, model, words):
    spoiled("config.json", model)
    if command == "resume" and "needs (" in words[0]: words = ["config.json is not what the checkpoint was trained under: model.hidden_size was 32, now "]
    refused(capsys, COMMANDS[command], "run", *words)


@pytest.mark.parametrize("width", [64, "x"])
def test_an_edited_width_of_a_run_that_is_drawn(spoiled, width):
    from hrm_nb.figures import save_run
    run = Run(spoiled("config.json", put("model", "hidden_size", width)))
    with pytest.raises(ValueError, match="run/config.json"): save_run(run, run.puzzles("test"))


def test_an_edited_width_of_a_run_that_is_reported(spoiled):
    "A page says what is missing on it."
    seen = looking.look(spoiled("config.json", put("model", "hidden_size", 64)), device="cpu")
    assert seen.result is None and any("the configuration needs (64,)" in sentence for sentence in seen.missing)


# ---- the table of runs

@pytest.mark.parametrize("file, value", [("environment.json", "[]"), ("environment.json", "{"), ("environment.json", "[" * 10 ** 5), ("config.json", "{}"), ("config.json", "[]"),
                                         ("config.json", put("model", ...)), ("config.json", put("steps", "x")), (HISTORY, "[]"),
                                         (HISTORY, put("step", ["a", "b"])), (HISTORY, {"train_lm_loss": [1.0]})])
def test_one_folder_hides_no_run(spoiled, capsys, file, value):
    spoiled(file, value)
    main(["runs", "."])
    out, err = capsys.readouterr()
    assert "whole" in out and "run " not in out and len(err.splitlines()) == 1 and f"run/{file}" in err


@pytest.mark.parametrize("value", ["x", 1e300, 2.5, [], True, None])
def test_values_that_the_table_cannot_hold(spoiled, capsys, value):
    spoiled("environment.json", put("seed", value))
    spoiled("config.json", put("recipe", {"changed": value}))
    main(["runs", "."])
    out, err = capsys.readouterr()
    assert "whole" in out and "run " in out and not err


# ---- history

@pytest.mark.parametrize("history, words", [(put("step_s", ...), "it has no column step_s"), (put("step", ...), "one of them named step"),
                                            (put("step", ["a", "b"]), "step holds 'a'"), (put("step_s", [[], []]), "step_s holds []"),
                                            ([], "holds list"), ("", "not valid JSON"), (put("step", [1]), "lists of one length")])
def test_a_history_without_its_columns(spoiled, capsys, history, words):
    folder = spoiled(HISTORY, history)
    refused(capsys, COMMANDS["watch"], f"run/{HISTORY}", words)
    seen = looking.look(folder, device="cpu")                        # what `report` shows
    assert words in " ".join(seen.missing) and seen.result is not None
    for command in ("evaluate", "checkpoints"): main(COMMANDS[command])   # which need no history


@pytest.mark.parametrize("history", [{}, [], "", put("step", ["a", "b"]), put("train_lm_loss", ["a", "b"]), put("step", ...)])
def test_a_damaged_history_of_a_finished_run(spoiled, whole, monkeypatch, history):
    "It is made again from the newest checkpoint."
    monkeypatch.setattr(cli, "_draw_and_say", lambda *_: None)
    folder = spoiled(HISTORY, history)
    main(COMMANDS["resume"])
    pd.testing.assert_frame_equal(Run(folder).history, Run(whole).history)


@pytest.mark.parametrize("history", [{}, "[", None])
@pytest.mark.parametrize("copy", [True, False])
def test_a_damaged_history_of_which_no_checkpoint_is_left(spoiled, whole, capsys, history, copy):
    "It is put back from the copy beside `final`; where that is gone too, this is said, and the weights are still of use."
    folder = spoiled(HISTORY, history if history is not None else {})
    if history is None: (folder / HISTORY).unlink()
    for step in (folder / "checkpoints").glob("step_*"): shutil.rmtree(step)
    if not copy: (folder / "checkpoints/final" / HISTORY).unlink()
    run = training.resume(folder)
    said = capsys.readouterr().out
    if copy: assert (folder / HISTORY).read_bytes() == (whole / HISTORY).read_bytes() and "is put back from" in said
    else:
        assert "its history is lost" in said and not len(run.history) and (history is None) == (not list(folder.glob("*.damaged")))
        main(COMMANDS["evaluate"])
    assert run.checkpoints.name.tolist() == ["best", "final"]


# ---- devices, names, files that are none

@pytest.mark.parametrize("command", ["evaluate", "compare", "checkpoints", "report"])
def test_a_device_without_numbers(spoiled, capsys, command):
    argv = [a if a != "cpu" else "meta" for a in COMMANDS[command]]
    if command == "report": argv += ["--checkpoint", "final"]             # what is asked for by name must be there
    refused(capsys, argv, "device 'meta' is not there; allowed are auto, cpu")


def test_training_on_a_device_without_numbers(capsys, tmp_path):
    refused(capsys, ["train", "copy-increment", "--run", str(tmp_path / "run"), *TINY, "--train.device", "meta"], "device 'meta' is not there")
    assert not (tmp_path / "run/config.json").exists()


def test_unnamed_runs_begun_in_one_second(tmp_path, monkeypatch):
    from datetime import datetime

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None): return datetime(2026, 1, 1)
    monkeypatch.setattr(training, "datetime", Stopped)
    monkeypatch.setattr(cli, "_draw_and_say", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for _ in range(3): main(["train", "copy-increment", *TINY])
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(names) == 3 and names[1].removesuffix("-2") == names[0] == names[2].removesuffix("-3")
    assert all(Run(tmp_path / "runs" / name).checkpoints.name.tolist()[:2] == ["best", "final"] for name in names)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_in_place_of_the_configuration(spoiled, capsys, command, tmp_path):
    spoiled("config.json", "").joinpath("config.json").unlink()
    os.mkfifo(tmp_path / "run/config.json")
    refused(capsys, COMMANDS[command], "run: no run here")


@pytest.mark.parametrize("file", ["environment.json", HISTORY])
def test_a_pipe_in_place_of_a_record(spoiled, capsys, tmp_path, file):
    (tmp_path / "run" / file).unlink()
    os.mkfifo(tmp_path / "run" / file)
    refused(capsys, COMMANDS["watch"], f"run/{file}: is a pipe or device")
    assert cli.threads_of_run(["resume", "run"]) == (None if file == "environment.json" else 1)
    main(["runs", "."])
    assert "whole" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [0, -1, 10 ** 9, "2", True, 2.0, None, []])
def test_threads_that_make_no_sense(spoiled, threads):
    spoiled("environment.json", put("threads", threads))
    assert cli.threads_of_run(["resume", "run"]) is None


def test_a_checkpoint_without_its_step(spoiled, tmp_path):
    from hrm_nb.files import load_tensors, save_tensors
    place = tmp_path / "run/checkpoints/step_000004"
    save_tensors(place / "model.safetensors", load_tensors(place / "model.safetensors")[0], {})
    with pytest.raises(ValueError, match="step_000004/model.safetensors: step is None"): load_checkpoint(place)
