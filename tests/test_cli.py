"The console command, called in this process on runs of seconds."
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hrm_nb
from hrm_nb import cli, training
from hrm_nb.files import FolderLock
from hrm_nb.cli import COMMANDS, main
from hrm_nb.recipes import RECIPES
from hrm_nb.runs import Run

ROOT = Path(cli.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ["--data.train", "64", "--data.test", "20", "--data.size", "3", "--model.hidden-size", "32", "--model.puzzle-emb-ndim", "32",
        "--train.steps", "12", "--train.batch-size", "16", "--train.device", "cpu", "--train.log-every", "3", "--train.checkpoint-every", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run made by the command."
    path = tmp_path_factory.mktemp("cli") / "runs" / "a"
    main(["train", "copy-increment", "--run", str(path), *TINY])
    return path


def refused(capsys, *argv):
    "The one line on stderr, progress bars aside, of a command that ends with status 2."
    with pytest.raises(SystemExit) as e: main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert e.value.code == 2, (e.value.code, err)
    lines = [line for line in err.splitlines() if "batch/s]" not in line and line]
    assert len(lines) == 1 and lines[0].startswith("hrm-nb: "), err
    return lines[0]


def test_train_leaves_a_run(trained):
    run = Run(trained)
    assert run.history.step.tolist() == [3, 6, 9, 12]
    assert run.checkpoints.name.tolist() == ["best", "final", "step_000004", "step_000008", "step_000012"]
    assert run.config["train"]["steps"] == 12 and run.config["train"]["epochs"] == 0 and run.config["model"]["hidden_size"] == 32
    assert run.config["model"]["seq_len"] == 9 and run.config["data"]["test"]["examples"] == 20
    for name in ("training_metrics.png", "prediction_vs_groundtruth.png"): assert (trained / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_options_have_the_names_of_the_fields(trained, tmp_path):
    "What the recipe does not override is the recipe's; the same run from Python has the same configuration."
    from hrm_nb.recipes import build, recipe
    r = recipe("copy-increment", dict(train=64, test=20, size=3), dict(hidden_size=32, puzzle_emb_ndim=32),
               dict(steps=12, batch_size=16, device="cpu", log_every=3, checkpoint_every=4))
    model, train, test = build(r)
    assert Run(trained).config["train"] == read_json_like(r.train.to_dict())
    assert Run(trained).config["model"] == model.config.to_dict()
    assert Run(trained).config["data"]["train"]["hash"] == train.hash and Run(trained).config["data"]["test"]["hash"] == test.hash


def read_json_like(values): return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def test_steps_replace_epochs_and_epochs_steps(monkeypatch):
    "Whichever is given; the other, which a recipe may hold, gives way."
    seen = []
    monkeypatch.setattr("hrm_nb.recipes.build", lambda r: (None, None, None))
    def stop(model, train, test, config, run, **kw): seen.append((config.steps, config.epochs)); raise ValueError("enough")
    monkeypatch.setattr(training, "fit", stop)
    for argv in (["copy-increment", "--train.epochs", "3"], ["maze-hard", "--train.steps", "7"], ["maze-hard", "--train.steps=7"], ["hrm-sudoku"]):
        with pytest.raises(SystemExit): main(["train", *argv])
    assert seen == [(0, 3), (7, 0), (7, 0), (0, 20_000)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_options(name, capsys):
    with pytest.raises(SystemExit) as e: main(["train", name, "--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0
    for option in ("--run", "--model.hidden-size", "--train.lr", "--train.checkpoint-every", "--data."): assert option in out, option


def is_there(name):
    "Whether the room of a command is installed."
    try: COMMANDS[name].find()
    except ModuleNotFoundError as e:
        assert e.name and e.name.startswith("hrm_nb."), e
        return False
    return True


def options_of(text):
    "Option -> what a help text says of it, without its default and the names of its values."
    found, option = {}, None
    for line in (line.strip("│╭╰─╮╯ ") for line in text.splitlines()):
        if name := re.match(r"--[a-zA-Z][\w.-]*", line):
            option = name[0]
            found[option] = line.split("  ", 1)[1].strip() if "  " in line else ""
        elif option and line and "──" not in line and not line.endswith("options"): found[option] += " " + line
        else: option = None
    return {name: re.sub(r"\(default:.*|\(required\)", "", said, flags=re.S).strip() for name, said in found.items()}


@pytest.mark.parametrize("words", [[name] for name in COMMANDS if name not in ("train", "sweep")] + [["train", name] for name in RECIPES] + [["sweep", "copy-increment"]], ids=" ".join)
def test_every_option_says_what_it_means(words, capsys, monkeypatch):
    "The help shows a sentence for each field, inherited ones too, and none that belongs to a heading."
    if words[0] != "train" and not is_there(words[0]): pytest.skip("its room is not here")
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit): main([*words, "--help"])
    text = capsys.readouterr().out
    said = options_of(text)
    import dataclasses
    if words[0] in ("train", "sweep"):
        options = cli.train_options(words[1])()
        fields = [f"{part}.{f.name}" for part in ("data", "model", "train") for f in dataclasses.fields(getattr(options, part))]
        if words[0] == "sweep": fields += ["vary", "workers", "name", "storage", "seeds"]
    else: fields = [f.name for f in dataclasses.fields(COMMANDS[words[0]].find()[0]) if "Positional" not in str(f.type)]
    assert {f"--{name.replace('_', '-')}" for name in fields} <= set(said), said
    if words[0] not in ("train", "sweep"):
        for f in dataclasses.fields(COMMANDS[words[0]].find()[0]):           # the positional ones
            if f.metadata.get("help"): assert f.metadata["help"][:20] in " ".join(text.split()), f.name
    assert not {k: v for k, v in said.items() if len(v) < 4 or "----" in v}


def test_options_carry_their_help():
    "It does not hang on a source file: the commands that are not made of settings of other rooms keep it in the field."
    import dataclasses
    for name in ("resume", "runs", "watch", "evaluate", "compare", "report", "bench"):
        for f in dataclasses.fields(COMMANDS[name].find()[0]): assert f.metadata["help"], (name, f.name)


def test_the_list_of_commands_loads_nothing_heavy():
    code = "import sys; from hrm_nb.cli import main; main(['--help']); print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help(capsys):
    main([]); short = capsys.readouterr().out
    main(["--help"]); assert capsys.readouterr().out == short
    for name in COMMANDS: assert re.search(rf"^  {name} ", short, re.M)
    main(["--version"]); assert capsys.readouterr().out == f"hrm-nb {hrm_nb.__version__}\n"
    for command in (["train"], ["sweep"], ["sweep", "--help"]):
        main(command); listed = capsys.readouterr().out
        for name, r in RECIPES.items(): assert name in listed and r.about in listed
    for name in sorted(set(COMMANDS) - {"train", "sweep"}):
        if not is_there(name): continue
        with pytest.raises(SystemExit) as e: main([name, "--help"])
        assert e.value.code == 0 and f"hrm-nb {name}" in capsys.readouterr().out


def test_evaluate(trained, capsys):
    main(["evaluate", str(trained), "--by", "pattern", "--device", "cpu"])
    out = capsys.readouterr().out
    scores = dict(re.findall(r"^(\w+) +([-\d.e+]+)$", out, re.M))
    assert scores["count"] == "20" and scores["steps"] == "2" and re.search(r"copy +10 ", out) and re.search(r"increment +10 ", out)
    from hrm_nb.evaluation import evaluate
    want = evaluate(Run(trained).model("best"), Run(trained).puzzles("test")).summary
    assert {k: float(scores[k]) for k in want} == pytest.approx(want, rel=1e-5)
    for argv in (["--checkpoint", "8"], ["--checkpoint", "final", "--split", "train"], ["--halt", "learned"], ["--max-steps", "1"]):
        main(["evaluate", str(trained), *argv])
        out = capsys.readouterr().out
        assert ("count                    64" if "train" in argv else "count                    20") in out
        if "--max-steps" in argv: assert re.search(r"^steps +1$", out, re.M)


def torchrun(folder, *argv):
    "The command by two processes, in a folder."
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", "--", Path(sys.executable).with_name("hrm-nb")]
    return subprocess.run([*command, *argv], cwd=folder, capture_output=True, text=True, timeout=300)


def test_torchrun_makes_one_run(trained, tmp_path):
    "Two processes share one run folder, speak once, and learn what one process learns."
    done = torchrun(tmp_path, "train", "copy-increment", *TINY)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    two, one = Run(path), Run(trained)
    assert done.stdout.count(path.name) == 1 and two.environment["world_size"] == 2 and one.environment["world_size"] == 1
    assert two.history.train_lm_loss.tolist() == pytest.approx(one.history.train_lm_loss.tolist(), rel=1e-4)
    assert two.history.train_lm_loss.nunique() == len(two.history) == 4 and (path / "training_metrics.png").is_file()
    done = torchrun(tmp_path, "train", "copy-increment", *TINY, "--train.batch-size", "15")
    assert done.returncode and "batch size 15 does not divide over 2 ranks" in done.stderr and len(list((tmp_path / "runs").iterdir())) == 1


def test_best_says_what_it_was_chosen_by(trained, tmp_path, capsys):
    "Where nothing is held out; the recipe holds a tenth out."
    main(["evaluate", str(trained)])
    assert "chosen by" not in capsys.readouterr().out
    main(["train", "copy-increment", "--run", str(tmp_path / "a"), *TINY, "--train.held-out", "0"])
    main(["evaluate", str(tmp_path / "a")])
    assert "best: step 12, chosen by training loss, nothing is held out" in capsys.readouterr().out


def test_a_domain_of_ones_own(tmp_path, capsys):
    "Trained in one process; scored and resumed by the command line in another, which is told where the class is."
    (tmp_path / "mirror.py").write_text(MIRROR)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[1])]), "OMP_NUM_THREADS": "1"}
    def python(*argv): return subprocess.run([sys.executable, *map(str, argv)], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=env)
    done = python("mirror.py")
    assert done.returncode == 0, done.stderr
    assert "the domain __main__.MirrorDomain is not loaded" in refused(capsys, "evaluate", tmp_path / "run")
    main(["evaluate", str(tmp_path / "run"), "--domain", f"{tmp_path / 'mirror.py'}:MirrorDomain"])
    whole = capsys.readouterr().out
    assert re.search(r"^count +20$", whole, re.M)
    import shutil
    for name in ("final", "step_000012"): shutil.rmtree(tmp_path / "run/checkpoints" / name)
    assert "is not loaded" in refused(capsys, "resume", tmp_path / "run")
    main(["resume", str(tmp_path / "run"), "--domain", f"{tmp_path / 'mirror.py'}:MirrorDomain"])
    main(["evaluate", str(tmp_path / "run"), "--domain", f"{tmp_path / 'mirror.py'}:MirrorDomain", "--checkpoint", "final"])
    assert capsys.readouterr().out.splitlines()[-13:] == whole.splitlines()[-13:] and (tmp_path / "run/prediction_vs_groundtruth.png").exists()


MIRROR = '''
from dataclasses import dataclass
import numpy as np
from hrm_nb.model import Reasoner, ReasonerConfig
from hrm_nb.puzzles import Domain, PuzzleSet
from hrm_nb.training import TrainConfig, fit

@dataclass(frozen=True)
class MirrorDomain(Domain):
    "Write the word backwards."

def make(n, seed):
    words = np.random.default_rng(seed).integers(1, 9, (n, 7))
    return PuzzleSet(words, words[:, ::-1], domain=MirrorDomain("mirror", ("_", *"abcdefgh"), (1, 7)))

if __name__ == "__main__":
    config = ReasonerConfig.hrm(vocab_size=9, seq_len=7, hidden_size=32, num_heads=4, expansion=2, H_layers=1, L_layers=1, puzzle_emb_ndim=0,
                                halt_max_steps=2, forward_dtype="float32")
    fit(Reasoner(config), make(60, 0), make(20, 1), TrainConfig(steps=12, batch_size=16, checkpoint_every=6, held_out=.2, device="cpu"), "run")
'''


def test_runs(trained, capsys):
    main(["runs", str(trained.parent)])
    head, row = capsys.readouterr().out.strip().splitlines()
    assert head.split()[0] == "path" and row.split()[0] == str(trained) and "12" in row
    for word in ("copy-increment", "data.train=64", "finished"): assert word in row, word
    main(["watch", row.split()[0]])                                       # the path is what other commands take
    assert "finished" in capsys.readouterr().out


def test_runs_by_a_path_from_here(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(trained.parents[1])
    main(["runs", "--output", str(tmp_path / "runs.csv")])
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[0] == "runs/a" and Run(row.split()[0]).config
    import pandas as pd
    assert pd.read_csv(tmp_path / "runs.csv").changed[0].startswith("data.train=64, data.test=20")
    assert "sort is 'beauty'; there are path" in refused(capsys, "runs", "--sort", "beauty")


@pytest.mark.parametrize("spoil", ["{", "3", '{"model": {}}', '{"a": 1}', "[]", ""])
def test_a_foreign_folder_hides_no_run(trained, tmp_path, capsys, spoil):
    import shutil
    shutil.copytree(trained, tmp_path / "good")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(spoil)
    shutil.copytree(trained, tmp_path / "torn")
    (tmp_path / "torn/training_history.json").write_text('{"step": [1], "loss": [1, 2]}')
    main(["runs", str(tmp_path)])
    out, err = capsys.readouterr()
    assert str(tmp_path / "good") in out and str(tmp_path / "torn") not in out
    told = [line for line in err.splitlines() if line]
    assert all(line.startswith("hrm-nb: ") for line in told) and any("torn: " in line for line in told), err


def test_compare_the_checkpoints_of_a_run(trained, capsys, tmp_path):
    main(["compare", str(trained), "--by", "pattern", "--output", str(tmp_path / "c.csv")])
    out = capsys.readouterr().out
    for word in ("step_000004", "best", "share", "low", "high", "pattern copy", "gained", "lost", "p_holm", "20 puzzles show"): assert word in out, word
    import pandas as pd
    table = pd.read_csv(tmp_path / "c.csv")
    assert len(table) == 20 and table["final"].sum() == int(re.search(r"^ *final +(\d+)", out, re.M)[1])
    main(["compare", str(trained), "--checkpoint", "4", "final"])
    assert "best" not in capsys.readouterr().out


def test_compare_runs(trained, capsys, tmp_path):
    other = tmp_path / "other"
    main(["train", "copy-increment", "--run", str(other), *TINY, "--train.lr", "1e-5"])
    capsys.readouterr()
    main(["compare", str(trained), str(other)])
    assert str(trained) in (out := capsys.readouterr().out) and str(other) in out and "gained" in out
    main(["train", "copy-increment", "--run", str(tmp_path / "else"), *TINY, "--data.seed", "5"])
    capsys.readouterr()
    assert "differ in hash of their test sets" in refused(capsys, "compare", trained, tmp_path / "else")
    main(["compare", str(trained), str(tmp_path / "else"), "--data", str(other)])
    assert "20 puzzles show" in capsys.readouterr().out
    assert "named twice" in refused(capsys, "compare", trained, trained)
    assert "no tag 'colour'" in refused(capsys, "compare", trained, "--by", "colour")
    assert "1 checkpoints; name another" in refused(capsys, "compare", trained, "--checkpoint", "best")


def test_evaluate_on_another_set(trained, capsys, tmp_path):
    Run(trained).puzzles("test").take(range(7)).save(tmp_path / "set", "test")
    for where in (tmp_path / "set", tmp_path / "set/test"):
        main(["evaluate", str(trained), "--data", str(where), "--output", str(tmp_path / "e.csv")])
        assert re.search(r"^count +7$", out := capsys.readouterr().out, re.M) and "95 % interval" in out
    import pandas as pd
    assert {"row", "exact", "pattern", "q_halt"} <= set(pd.read_csv(tmp_path / "e.csv")) and len(pd.read_csv(tmp_path / "e.csv")) == 7
    assert "puzzles of" in refused(capsys, "evaluate", trained, "--data", "copy-increment")           # 5 x 5
    assert "a recipe's name does too" in refused(capsys, "evaluate", trained, "--data", "no-such-set")
    assert "neither test/dataset.json" in refused(capsys, "evaluate", trained, "--data", tmp_path)
    assert "end in .csv" in refused(capsys, "evaluate", trained, "--output", tmp_path / "e.xlsx")


def test_evaluate_a_sudoku_run_on_a_csv_file(tmp_path, capsys):
    "A set of another box size than the published one."
    from hrm_nb import sudoku
    from hrm_nb.model import Reasoner, ReasonerConfig
    from hrm_nb.training import TrainConfig, fit
    train, test = (sudoku.generate(n, box=(2, 2), seed=n) for n in (16, 5))
    config = ReasonerConfig.hrm(**{k: train.metadata[k] for k in ("vocab_size", "seq_len")}, hidden_size=32, num_heads=4, expansion=2, H_layers=1,
                                L_layers=1, puzzle_emb_ndim=0, halt_max_steps=2, forward_dtype="float32")
    fit(Reasoner(config), train, None, TrainConfig(steps=2, batch_size=16, device="cpu"), tmp_path / "run")
    sudoku.save_csv(test, tmp_path / "test.csv")
    for where in (tmp_path / "test.csv", tmp_path):
        main(["evaluate", str(tmp_path / "run"), "--data", str(where)])
        assert re.search(r"^count +5$", capsys.readouterr().out, re.M)
    (tmp_path / "bad.csv").write_text("source,question,answer,rating\nx,12,34,1\n")
    assert "bad.csv" in refused(capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "bad.csv")


def test_an_unfinished_run_is_scored_by_its_newest_checkpoint(trained, tmp_path, capsys):
    import shutil
    shutil.copytree(trained, tmp_path / "c")
    shutil.rmtree(tmp_path / "c/checkpoints/final")
    main(["evaluate", str(tmp_path / "c")])
    assert "not finished: its newest checkpoint, step 12" in capsys.readouterr().out
    file = tmp_path / "c/checkpoints/step_000012/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    main(["evaluate", str(tmp_path / "c")])
    assert "its newest checkpoint, step 8" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "c/checkpoints")
    assert "no checkpoint yet" in refused(capsys, "evaluate", tmp_path / "c")


def test_a_page_on_a_run(trained, capsys, tmp_path):
    main(["report", str(trained), "--output", str(tmp_path / "a.html"), "--examples", "10"])
    assert f"wrote {tmp_path / 'a.html'}" in capsys.readouterr().out and "of 10 puzzles exactly" in (tmp_path / "a.html").read_text()
    assert "examples is -1" in refused(capsys, "report", trained, "--examples", -1)
    assert "no checkpoint 7" in refused(capsys, "report", trained, "--checkpoint", 7)
    assert "no run here" in refused(capsys, "report", tmp_path)


def test_a_run_knows_its_recipe(trained):
    made = Run(trained).config["recipe"]
    assert made["name"] == "copy-increment" and made["data"]["size"] == 3 and made["changed"]["train.steps"] == 12
    assert "train.lr" not in made["changed"]


def test_resume_after_sigterm(tmp_path, capsys, monkeypatch):
    "A run that was told to leave says where its work is; resume takes it to the end."
    real_update = training.ProgressCB.on_step
    def leave(self, trainer):
        if trainer.step == 5: os.kill(os.getpid(), signal.SIGTERM)
        real_update(self, trainer)
    monkeypatch.setattr(training.ProgressCB, "on_step", leave)
    with pytest.raises(SystemExit, match="143"): main(["train", "copy-increment", "--run", str(tmp_path / "b"), *TINY])
    assert re.search(r"\nhrm-nb: terminated; saved in .*, go on with resume\n$", capsys.readouterr().err)
    assert Run(tmp_path / "b").checkpoints.step.max() == 5
    monkeypatch.undo()
    main(["resume", str(tmp_path / "b")])
    assert "held out exact accuracy" in capsys.readouterr().out
    assert Run(tmp_path / "b").checkpoints.name.tolist()[:2] == ["best", "final"] and (tmp_path / "b/training_metrics.png").exists()


def test_ctrl_c_is_one_line_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt("interrupted; saved in x, go on with resume")))
    with pytest.raises((SystemExit, KeyboardInterrupt)) as e: main(["train", "copy-increment", "--run", str(tmp_path / "b"), *TINY])
    assert e.type is SystemExit and e.value.code == 130 and "saved in x" in capsys.readouterr().err


@pytest.mark.parametrize("argv, words", [
    (["fly"], "no command 'fly'; there are train, sweep, resume, runs"), (["train", "chess"], "no recipe 'chess'; there are copy-increment"),
    (["train", "copy-increment", *TINY, "--train.batch-size", "999"], "larger than the set"),
    (["train", "copy-increment", *TINY, "--train.device", "cuda:77"], "is not there"),
    (["train", "maze-hard", "--data.name", "no-such-set"], "no data set 'no-such-set'"),
    (["compare", "nowhere"], "nowhere: no run here"), (["report", "nowhere"], "nowhere: no run here"), (["compare"], "no run is named"),
    (["resume", "nowhere"], "nowhere: no run here"), (["evaluate", "nowhere"], "nowhere: no run here"), (["runs", "nowhere"], "no runs below"),
    (["bench", "x"], "no benchmark 'x'"), (["report", "--notebook", "no.ipynb"], "no.ipynb: no such notebook")], ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else "")
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *argv)
    assert list(tmp_path.rglob("config.json")) == []


def test_errors_about_a_run_are_one_line(trained, capsys, tmp_path):
    assert "already holds a run" in refused(capsys, "train", "copy-increment", "--run", trained, *TINY)
    assert "train begins with a recipe's name, found '--recipe'" in refused(capsys, "train", "--recipe", "copy-increment")
    assert "vocab_size is 50, but the data needs 12" in refused(capsys, "train", "copy-increment", "--model.vocab-size", 50, *TINY)
    assert "threads is 'many'; allowed are whole numbers from 1" in refused(capsys, "runs", "--threads", "many")
    assert "domain is 'Mirror'; allowed is module:Class or file.py:Class" in refused(capsys, "evaluate", trained, "--domain", "Mirror")
    assert "no checkpoint 7; there are best, final, step_000004" in refused(capsys, "evaluate", trained, "--checkpoint", 7)
    assert "no tag 'colour'; there are" in refused(capsys, "evaluate", trained, "--by", "colour")
    import shutil
    shutil.copytree(trained, tmp_path / "c")
    file = tmp_path / "c/checkpoints/best/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert str(file) in refused(capsys, "evaluate", tmp_path / "c")
    (tmp_path / "c/config.json").write_text("{")
    assert "config.json: not valid JSON" in refused(capsys, "resume", tmp_path / "c")


@pytest.mark.parametrize("option, value, words", [("--model.num-heads", "7", "num_heads is 7"), ("--train.lr", "-1", "lr is -1"),
                                                  ("--train.optimizer", "lion", "allowed are adamw, adam_atan2"), ("--data.colours", "1", "colours is 1")])
def test_settings_that_make_no_sense(option, value, words, capsys):
    "Refused by the configurations while tyro makes them; tyro sets the message in a frame of its own."
    with pytest.raises(SystemExit) as e: main(["train", "copy-increment", option, value])
    err = " ".join(capsys.readouterr().err.split())
    assert e.value.code == 2 and words in err and "Traceback" not in err


@pytest.mark.parametrize("argv", [["evaluate"], ["evaluate", "x", "--halt", "sometimes"], ["train", "copy-increment", "--train.learning-rate", "1"],
                                  ["train", "copy-increment", "--train.steps", "many"]], ids=" ".join)
def test_a_wrong_command_line_ends_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as e: main(argv)
    assert e.value.code == 2 and capsys.readouterr().err


def test_the_entry_point_is_main(): assert cli.main is main and "hrm_nb.cli:main" in entry_points()


def entry_points():
    from configparser import ConfigParser
    from pathlib import Path
    ini = ConfigParser(delimiters=["="], interpolation=None)
    ini.read(Path(__file__).parent.parent / "settings.ini")
    return ini["DEFAULT"]["console_scripts"]


def test_threads_by_the_cores_that_are_free(trained, monkeypatch, capsys):
    "Only before torch is loaded, only where nobody chose, only for commands that compute; a resumed run takes those it began with."
    monkeypatch.delitem(sys.modules, "torch")
    def chosen(*argv, free=(1, 2), **environ):
        rest = cli.choose_threads(list(map(str, argv)), environ, lambda: free)
        return rest, environ.get("OMP_NUM_THREADS"), capsys.readouterr().err
    assert chosen("train", "x") == (["train", "x"], "1", "hrm-nb: 1 of 2 cores are busy, 1 used; --threads N chooses\n")
    assert chosen("train", "x", free=(2, 2)) == (["train", "x"], None, "")
    assert chosen("runs") == (["runs"], None, "")
    assert chosen("train", "x", OMP_NUM_THREADS="5")[1] == "5"
    assert chosen("--threads", "3", "train", "x", OMP_NUM_THREADS="5") == (["train", "x"], "3", "")
    began = Run(trained).environment["threads"]
    assert chosen("resume", trained, free=(7, 8))[1:] == (str(began), "")
    assert chosen("resume", "nowhere")[1] == "1"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert chosen("train", "x") == (["train", "x"], None, "")


@pytest.mark.skipif((ROOT / "data" / "seed-cpu").exists(), reason="the earlier run's own grids are at hand")
def test_the_report_where_the_earlier_grids_are_not_at_hand(tmp_path):
    "As in a new clone: the page runs on grids of the same make, says so, draws no finding about the run's own, and leaves committed figures alone."
    env = {k: v for k, v in os.environ.items() if k != "HRM_NB_DATA"} | {"HRM_NB_OUT": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("hrm-nb"), "report", "--notebook", "nbs/experiments/earlier_run.ipynb", "--output", tmp_path / "a.html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    html = (tmp_path / "a.html").read_text()
    text = re.sub(r"<[^>]+>", "", html[html.index("What was found"):])
    assert "on stand-in grids of the same make" in text.lower() and "Finding (not drawn)" in text
    assert not re.search(r"\{[a-z_]+\}", text.split("Setup")[0])
    drawn = [p.name for p in (tmp_path / "figures/earlier_run").iterdir()]
    assert drawn and all(name.endswith("_stand_in.png") for name in drawn)


def test_watching_a_run(trained, capsys, tmp_path):
    main(["watch", str(trained)])
    seen = capsys.readouterr().out
    assert "step 12 of 12 [" in seen and "finished" in seen and "lm loss" in seen and "step_000004" in seen
    import json, shutil
    shutil.copytree(trained, tmp_path / "c")
    shutil.rmtree(tmp_path / "c/checkpoints/final")
    history = json.loads((tmp_path / "c/training_history.json").read_text())
    (tmp_path / "c/training_history.json").write_text(json.dumps({k: v[:1] for k, v in history.items()}))
    with FolderLock(tmp_path / "c", "training"):                          # as a living process holds it
        main(["watch", str(tmp_path / "c"), "--every", "0"])
    seen = capsys.readouterr().out
    step = int(history["step"][0]); done = round(40 * step / 12)
    assert f"step {step} of 12 [{'#' * done}{'.' * (40 - done)}]" in seen and "in progress" in seen
    main(["watch", str(tmp_path / "c")])                                  # nobody is alive: it says so and ends
    assert "interrupted" in (seen := capsys.readouterr().out) and "in progress" not in seen
    (tmp_path / "c/training_history.json").unlink()
    main(["watch", str(tmp_path / "c")])
    assert "interrupted before its first row" in capsys.readouterr().out
    with FolderLock(tmp_path / "c", "training"): main(["watch", str(tmp_path / "c"), "--every", "0"])
    assert "no history yet" in capsys.readouterr().out
    assert "no run here" in refused(capsys, "watch", tmp_path) and "every is -1" in refused(capsys, "watch", trained, "--every", -1)
