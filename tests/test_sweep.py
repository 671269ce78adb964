"Sweeps: two workers on one study, a killed worker, going on, pruning, the command line."
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from hrm_nb import sweep
from hrm_nb.cli import main
from hrm_nb.runs import Run, runs
from hrm_nb.sweep import Place, PruneCB, begin, figure, importances, need_optuna, objective, run_sweep, table, work
from hrm_nb.varied import Sweep

FIXED = {"data.train": 80, "data.test": 20, "data.size": 3, "model.hidden_size": 16, "model.num_heads": 2, "model.puzzle_emb_ndim": 16,
         "train.steps": 6, "train.batch_size": 8, "train.eval_every": 3, "train.device": "cpu"}
GRID = Sweep("copy-increment", ("train.lr=1e-3,1e-2", "model.H_cycles=1,2"), FIXED)
SLOW = Sweep("copy-increment", ("train.lr=1e-3,1e-2",), FIXED | {"train.steps": 240, "train.eval_every": 120, "train.checkpoint_every": 20})
OPTIONS = [word for key, value in FIXED.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def signalled(s, place, number):
    "A worker that gets a signal after the 50th step of its first training."
    PruneCB.on_step = lambda self, trainer: os.kill(os.getpid(), number) if trainer.step == 50 else None
    work(s, place)


def end_with(number, s, place):
    "Such a worker in a process of its own, as one started by hand; its exit code."
    process = multiprocessing.get_context("spawn").Process(target=signalled, args=(s, place, number))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "A grid of four, by two workers; what they found."
    place = Place(tmp_path_factory.mktemp("sweeps") / "grid")
    return place, run_sweep(GRID, place, workers=2)


def test_two_workers_take_each_setting_once(done):
    place, found = done
    assert set(found.state) == {"complete"} and len(found) == 4
    assert Counter(zip(found["train.lr"], found["model.H_cycles"])) == Counter((g["train.lr"], g["model.H_cycles"]) for g in GRID.grid())
    assert (found.seconds > 0).all() and found.parameters.nunique() == 1 and (found.steps == 6).all()
    for row in found.itertuples():
        (path,) = row.runs
        run = Run(path)
        assert run.config["train"]["lr"] == row[3] and row.score == run.history.held_out_exact_accuracy.max()
        assert run.config["recipe"]["changed"]["train.lr"] == row[3]
    assert len(runs(place.folder)) == 4


def test_going_on_changes_nothing_and_refuses_another_sweep(done):
    place, found = done
    again = run_sweep(GRID, place)
    assert again.trial.tolist() == found.trial.tolist() and again.score.tolist() == found.score.tolist()
    with pytest.raises(ValueError, match="study 'grid': seeds was 1, now 2; a study goes on as it began"):
        run_sweep(Sweep(GRID.recipe, GRID.vary, FIXED, seeds=2), place)
    shares = importances(place.folder, "grid")
    assert abs(shares.sum() - 1) < 1e-6 and set(shares.index) == {"train.lr", "model.H_cycles"}
    assert len(figure(found).axes) >= 1


def test_a_killed_worker_s_trial_is_taken_over_where_it_stopped(tmp_path):
    "Killed in the middle of a training; the other worker goes on from its checkpoint, in its folder, to the bits of an unbroken run."
    place = Place(tmp_path / "killed", stale_after=3)
    assert end_with(signal.SIGKILL, SLOW, place) == -signal.SIGKILL
    assert (place.folder / "trial-0000/seed-0/checkpoints/step_000040").exists()
    states = Counter(t.state.name for t in begin(SLOW, place).trials)
    assert states["RUNNING"] == 1
    found = run_sweep(SLOW, place)
    assert set(found.state) == {"complete"} and len(found) == 2
    row = found[[Path(r[0]).parent.name == "trial-0000" for r in found.runs]].iloc[0]
    assert row.trial == 2                               # queued again under a new number
    history = Run(row.runs[0]).history
    whole = run_sweep(Sweep(SLOW.recipe, ("train.lr=1e-3",), SLOW.fixed), Place(tmp_path / "whole"))
    unbroken = Run(whole.runs[0][0]).history
    assert history.train_lm_loss.tolist() == unbroken.train_lm_loss.tolist() and row.score == whole.score[0]


def test_a_worker_asked_to_stop_puts_its_trial_back(tmp_path):
    place = Place(tmp_path / "stopped")
    assert end_with(signal.SIGINT, SLOW, place) not in (0, -signal.SIGKILL)
    states = Counter(t.state.name for t in begin(SLOW, place).trials)
    assert states == {"FAIL": 1, "WAITING": 2}
    assert table(place.folder, "stopped").state.tolist() == ["waiting"] * 2


def test_a_worker_taken_for_dead_goes_on_with_others(tmp_path, monkeypatch, capsys):
    "It slept longer than it may: its trial was given to another worker before it could tell its score."
    real, calls = sweep.objective, []

    def slept(trial, s, folder):
        calls.append(trial.number)
        if len(calls) > 1: return real(trial, s, folder)
        storage = trial.study._storage
        storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        storage.get_heartbeat_stale_trial_callback()(trial.study, storage.get_trial(trial._trial_id))
        return 1.0
    monkeypatch.setattr(sweep, "objective", slept)
    found = run_sweep(Sweep("copy-increment", ("train.lr=1e-3,1e-2",), FIXED), Place(tmp_path / "slept"))
    assert "taken for dead" in capsys.readouterr().out and found.state.tolist() == ["complete"] * 2 and len(calls) == 3


def test_seeds_are_averaged_and_ranges_searched(tmp_path):
    s = Sweep("copy-increment", ("train.lr=1e-4..1e-1", "train.weight_decay=0..1"), FIXED, trials=3, seeds=2, sampler="random")
    found = run_sweep(s, Place(tmp_path / "ranges"))
    assert len(found) == 3 and found["train.lr"].between(1e-4, 1e-1).all() and found["train.lr"].nunique() == 3
    for row in found[found.state == "complete"].itertuples():
        scores = [Run(path).history.held_out_exact_accuracy.max() for path in row.runs]
        assert len(scores) == 2 and row.score == pytest.approx(sum(scores) / 2)
        assert [Run(path).config["train"]["seed"] for path in row.runs] == [0, 1]
    more = run_sweep(Sweep(s.recipe, s.vary, FIXED, trials=4, seeds=2, sampler="random"), Place(tmp_path / "ranges"))
    assert len(more) == 4                                                           # one trial more, not four


def test_a_hopeless_trial_is_pruned_by_held_out_score_and_is_whole(tmp_path):
    s = Sweep("copy-increment", ("train.lr=1e-2,0.0",), FIXED, score="accuracy")
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    for values in s.grid(): study.enqueue_trial(values)
    study.add_trial(optuna.trial.create_trial(value=.9, intermediate_values={3: .8, 6: .9}))
    study.optimize(lambda t: objective(t, s, tmp_path), n_trials=2)
    assert [t.state.name for t in study.trials if t.params] == ["PRUNED", "PRUNED"]
    run = Run(tmp_path / "trial-0001/seed-0")
    assert run.history.step.max() == 3 and "final" in set(run.checkpoints.name)
    assert "pruned" in run.history.stopped.dropna().iloc[-1]
    assert study.trials[1].intermediate_values == {3: run.history.held_out_accuracy.dropna().iloc[-1]}


def test_test_scores_decide_nothing():
    class Trial:
        def report(self, value, step): raise AssertionError("reported")
    PruneCB(Trial(), "exact_accuracy").on_log(None, {"test_exact_accuracy": 1.0, "train_exact_accuracy": 1.0})


def test_a_setting_that_does_not_fit_fails_alone(tmp_path):
    rest = {key: value for key, value in FIXED.items() if key != "train.batch_size"}
    found = run_sweep(Sweep("copy-increment", ("train.batch_size=8,500",), rest), Place(tmp_path / "fit"))
    assert found.state.tolist() == ["complete", "fail"] and "larger than the set" in found.problem[1]


def test_what_is_drawn_hangs_on_the_seed_alone(tmp_path):
    def drawn(folder, seed, trials=2, workers=1):
        s = Sweep("copy-increment", ("train.lr=1e-4..1e-1",), FIXED | {"train.seed": seed}, trials=trials, sampler="random")
        return run_sweep(s, Place(tmp_path / folder), workers).sort_values("trial")["train.lr"].tolist()
    first = drawn("a", 0)
    assert first == drawn("b", 0, trials=1) + [drawn("c", 0)[1]] and not set(first) & set(drawn("d", 1))
    assert len(set(first)) == 2


def test_a_diverging_setting_counts_as_pruned(tmp_path):
    found = run_sweep(Sweep("copy-increment", ("train.lr=1e-3,1e30",), FIXED), Place(tmp_path / "wild"))
    assert found.state.tolist() == ["complete", "pruned"] and "training stopped" in found.problem[1]


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["sweep", "copy-increment", "--vary", "train.lr=1e-3,1e-2", *OPTIONS, "--name", "mine"])
    said = capsys.readouterr().out
    assert "runs/sweeps/mine: 2 trials" in said and "train.lr" in said
    assert len(table("runs/sweeps/mine", "mine")) == 2
    main(["runs", "runs/sweeps/mine"])
    assert "train.lr=0.01" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["copy"], "no recipe 'copy'"), (["copy-increment"], "nothing is varied"),
    (["copy-increment", "--vary", "train.lr"], "expected a field and its values"),
    (["copy-increment", "--vary", "train.lr=1e-3,"], "a value is missing"),
    (["copy-increment", "--vary", "model.wings=2,3"], "no field 'wings' in model"),
    (["copy-increment", "--vary", "train.lr=-1,2"], "lr is -1.0"),
    (["copy-increment", "--vary", "train.lr=1e-3..1e-2"], "give the number of trials"),
    (["copy-increment", "--vary", "train.lr=1e-3,1e-2", "--sampler", "best"], "sampler is 'best'"),
    (["copy-increment", "--vary", "train.lr=1e-3,1e-2", "--workers", "0"], "workers is 0"),
    (["copy-increment", "--vary", "train.lr=1e-3,1e-2", "--storage", "nosuch://me:secret@host/x"], "storage nosuch://... cannot be opened"),
    (["copy-increment", "--vary", "train.lr=1e-3,1e-2", "--train.held-out", "0"], "holds no puzzles out"),
    (["maze-hard", "--vary", "train.lr=1e-4,1e-3"], "holds no puzzles out")])
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left: main(["sweep", *words])
    err = capsys.readouterr().err
    assert left.value.code == 2 and said in err and len([line for line in err.splitlines() if line.startswith("hrm-nb:")]) == 1
    assert "secret" not in err and not list(tmp_path.glob("runs/sweeps/*/trial-*"))


def test_without_optuna_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'hrm-nb\[sweep\]'"): need_optuna()


def test_the_room_loads_without_optuna():
    code = "import sys; import hrm_nb.sweep; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study here"): table(tmp_path, "x")
    assert not list(tmp_path.iterdir())
