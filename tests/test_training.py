"""Training that loses nothing: kills, signals, full disks, locks, several processes, and what decides when it stops.

Run as a program, the file does the parts that need processes of their own: it imports torch once and forks a child for every run.
"""
import dataclasses
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hrm_nb import patterns
from hrm_nb import files
from hrm_nb import runs as runs_module
from hrm_nb.evaluation import evaluate
from hrm_nb.model import Reasoner, ReasonerConfig
from hrm_nb.runs import Run, load_tensors
from hrm_nb.files import FolderLock
from hrm_nb.training import Callback, DivergedError, TrainConfig, Trainer, fit, join_ranks, pick_device, resume

TIMED = ("step_s", "examples_per_s", "memory_mb", "cpu_percent")  # columns that no two runs share
ARCH = dict(vocab_size=12, seq_len=9, num_puzzle_identifiers=3, puzzle_emb_ndim=32, hidden_size=32, num_heads=4, expansion=2, H_layers=1,
            L_layers=1, halt_max_steps=3, halt_exploration_prob=.5, forward_dtype="float32")
SETTINGS = TrainConfig(steps=24, batch_size=16, lr=3e-3, puzzle_lr=1e-2, warmup_steps=4, lr_min_ratio=.1, clip_norm=1.0, device="cpu",
                       checkpoint_every=2, eval_every=8, held_out=.25, log_every=2)


def fresh(seed=0, **changes):
    "A model that would stop after every step, so that only exploration keeps it thinking and chance has a say from the start."
    model = Reasoner(ReasonerConfig.hrm(**ARCH | changes), seed=seed)
    with torch.no_grad(): model.q_head.bias.copy_(torch.tensor([1., 0.]))
    return model


def puzzles(n=64, seed=1): return patterns.make(n, size=3, seed=seed)
def train(path, callbacks=(), model=None, data=None, **changes):
    "A run in `path`; a tiny one unless told otherwise."
    return fit(model or fresh(), data or puzzles(), puzzles(24, seed=2), dataclasses.replace(SETTINGS, **changes), path, callbacks)


def result(run, names=("final", "best")):
    "All that must agree to the bit: weights, and the history without its timings."
    run = Run(run) if isinstance(run, (str, Path)) else run
    history = run.history.drop(columns=[c for c in TIMED if c in run.history])
    weights = {n: {k: v.numpy().tobytes() for k, v in load_tensors(run.path / f"checkpoints/{n}/model.safetensors")[0].items()} for n in names}
    return weights, history.to_csv(index=False)


def gap(a, b):
    "The largest difference between two models, and |a - b| / |b| over all weights in the 2-norm."
    a, b = [torch.cat([t.double().flatten() for t in m.state_dict().values()]) for m in (a, b)]
    return (a - b).abs().max().item(), ((a - b).norm() / b.norm()).item()


class At(Callback):
    "Call `do` with the trainer after one step."
    def __init__(self, step, do): self.step, self.do = step, do
    def on_step(self, trainer): self.do(trainer) if trainer.step == self.step else None


# ---- the program: runs in processes of their own

def forked(function, *args):
    "The process id of a child that calls `function` and leaves with its outcome: 0, 1 after an error, 3 when told to."
    if (child := os.fork()): return child
    code = 1
    try: torch.set_num_threads(1); function(*args); code = 0
    except SystemExit: code = 3
    except Exception as e: print(type(e).__name__, e, file=sys.stderr)
    finally: sys.stderr.flush(); os._exit(code)


def killed_runs(folder, runs=20):
    "Train once undisturbed, then `runs` times with one kill -9 each at a random moment; a dict of what happened."
    dice, told = random.Random(0), dict(killed=0, early=0, unequal=[], failed=[])
    options = dict(ema=.9, accumulate=2, steps=16)
    start = time.monotonic()
    child = forked(lambda: train(folder / "whole", **options))
    assert os.waitpid(child, 0)[1] == 0
    lasts, wanted = time.monotonic() - start, result(folder / "whole")
    told["lasts"] = lasts
    while told["killed"] < runs and not told["failed"]:
        path = folder / f"run{told['killed']}"
        shutil.rmtree(path, ignore_errors=True)
        child = forked(lambda: train(path, **options))
        time.sleep(lasts * (told["killed"] + dice.random()) / runs)       # one kill in every twentieth of a run
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:                     # it had finished: draw again, from a shorter time
            lasts *= .8
            continue
        told["killed"] += 1
        if not (path / "config.json").exists():  # written last: no run yet, nothing to resume; start over, as a user would
            told["early"] += 1
            shutil.rmtree(path, ignore_errors=True)
            child = forked(lambda: train(path, **options))
        else: child = forked(resume, path)
        if os.waitpid(child, 0)[1] != 0: told["failed"].append(str(path))
        elif result(path) != wanted: told["unequal"].append(str(path))
    return told


def one_rank(folder, name, rank, world_size, go_on, callbacks=()):
    "A rank of a group that meets in a file; a group of one is no group."
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{name}-{go_on}", rank=rank, world_size=world_size,
                                timeout=timedelta(seconds=5 if callbacks else 60))
    if go_on: resume(folder / name)
    else: train(folder / name, callbacks, **RANKS)
    if world_size > 1: dist.destroy_process_group()


def group(folder, name, world_size, go_on=False, callbacks=lambda rank: ()):
    "How every rank of a group left."
    children = [forked(one_rank, folder, name, r, world_size, go_on, callbacks(r)) for r in range(world_size)]
    return [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]


RANKS = dict(steps=20, lr=1e-4, puzzle_lr=1e-4, checkpoint_every=10, eval_every=0, held_out=0, log_every=1, keep=0)


def ranked_runs(folder):
    "The same run by one and by two processes; then both from the checkpoint that the two wrote at step 10."
    assert group(folder, "one", 1) == [0] and group(folder, "two", 2) == [0, 0]
    for name, world_size in (("two-then-one", 1), ("two-then-two", 2)):
        shutil.copytree(folder / "two", folder / name)
        for part in ("checkpoints/step_000020", "checkpoints/final", "checkpoints/best"): shutil.rmtree(folder / name / part)
        assert group(folder, name, world_size, go_on=True) == [0] * world_size


def signalled_ranks(folder):
    "The second of two processes is told to leave after step 5; then both go on."
    tell = At(5, lambda t: os.kill(os.getpid(), signal.SIGTERM))
    left = group(folder, "run", 2, callbacks=lambda rank: (tell if rank == 1 else Callback(),))
    return dict(left=left, then=group(folder, "run", 2, go_on=True) if left == [3, 3] else None)


def two_resumes(folder):
    "How two processes leave that go on with one run at the same moment, five times; and whether the run came to its end."
    told = []
    for i in range(5):
        path = folder / f"run{i}"
        shutil.copytree(folder / "run", path)
        children = [forked(resume, path) for _ in range(2)]
        told.append(sorted(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children))
    return told


JOBS = {"twice": two_resumes, "killed": killed_runs, "ranked": ranked_runs, "signalled": signalled_ranks, "resume": lambda path: str(resume(path))}


def in_program(job, folder):
    "What the job printed last, as JSON; a failure shows what it wrote to stderr."
    # gloo looks for the machine's address by its name, which need not resolve; the loopback device always does
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(runs_module.__file__).parents[1])}
    done = subprocess.run([sys.executable, __file__, job, str(folder)], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    import filelock, psutil, torch._dynamo  # noqa: F401  what a run imports late: once here, so that no child has to
    torch.set_num_threads(1)
    print(json.dumps(JOBS[sys.argv[1]](Path(sys.argv[2]))))
    sys.exit()


# ---- nothing is lost

@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children: needs a system with fork")
def test_twenty_runs_killed_at_random_moments(tmp_path):
    "With averaged weights and two parts a step, so that every piece of state counts. To the bit."
    told = in_program("killed", tmp_path)
    assert told["failed"] == [] and told["unequal"] == [] and told["killed"] == 20, told
    assert told["early"] <= 12, told                                      # or the kills would show nothing


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nothing disturbed."
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("whole") / "run")


pytestmark = pytest.mark.usefixtures("one_thread")


def test_same_seed_same_bits(whole, tmp_path):
    again = result(train(tmp_path / "again"))
    assert again == result(whole)
    assert result(train(tmp_path / "other", seed=1))[0] != again[0]


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("step", [8, 10])
def test_signals_save_and_leave(whole, tmp_path, number, error, step):
    "At a step with a checkpoint due and evaluation (8), and at one without evaluation (10)."
    before = signal.getsignal(number)
    with pytest.raises(error, match="saved in .*run"): train(tmp_path / "run", [At(step, lambda t: os.kill(os.getpid(), number))])
    assert signal.getsignal(number) == before
    assert Run(tmp_path / "run").checkpoints.step.max() == step
    assert result(resume(tmp_path / "run")) == result(whole)


def test_a_signal_in_the_last_step_counts_too(tmp_path):
    "With nothing to evaluate: the run leaves after its last step, and what is left is its final model."
    def go(path, *callbacks): return fit(fresh(), puzzles(), None, dataclasses.replace(SETTINGS, steps=6, held_out=0.0, eval_every=0), path, callbacks)
    whole = result(go(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "run", At(6, lambda t: os.kill(os.getpid(), signal.SIGINT)))
    assert "final" not in Run(tmp_path / "run").checkpoints.name.tolist() and Run(tmp_path / "run").checkpoints.step.max() == 6
    assert result(resume(tmp_path / "run")) == whole


def test_a_signal_between_checkpoints_saves_the_step(tmp_path):
    with pytest.raises(KeyboardInterrupt): train(tmp_path / "run", [At(5, lambda t: os.kill(os.getpid(), signal.SIGINT))], checkpoint_every=0, log_every=1)
    assert Run(tmp_path / "run").checkpoints.name.tolist() == ["step_000005"]
    assert result(resume(tmp_path / "run")) == result(train(tmp_path / "whole", checkpoint_every=0, log_every=1))


@pytest.mark.parametrize("call", [1, 4, 6])
def test_a_signal_breaks_off_an_evaluation(whole, tmp_path, monkeypatch, call):
    "Two sets are scored at steps 8, 16 and 24; what was broken off is done when the run goes on."
    calls = []
    def slow(model, puzzles, **options):
        calls.append(model.training)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on after the signal")
        return evaluate(model, puzzles, **options)
    with monkeypatch.context() as m, pytest.raises(SystemExit, match="saved in"):
        m.setattr("hrm_nb.callbacks.evaluate", slow)
        train(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.history.step.iloc[-1] == run.checkpoints.step.max() == 8 * math.ceil(call / 2) and calls == [False] * call
    assert result(resume(run.path)) == result(whole)


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    "Without a number of steps one is written every so many seconds; a run killed after one goes on to the same bits."
    plain = train(tmp_path / "plain", checkpoint_every=0, log_every=5)
    assert plain.checkpoints.name.tolist() == ["best", "final"] and result(resume(plain.path)) == result(plain)  # finished: nothing to do
    monkeypatch.setattr("hrm_nb.callbacks._SECURE_S", 0)
    with pytest.raises(RuntimeError): train(tmp_path / "killed", [At(14, lambda t: fail())], checkpoint_every=0, log_every=5)
    assert Run(tmp_path / "killed").checkpoints.step.max() == 13
    assert result(resume(tmp_path / "killed")) == result(plain)


def fail(): raise RuntimeError


def test_resume_between_two_rows_of_the_history(tmp_path):
    whole = train(tmp_path / "whole", log_every=5)
    with pytest.raises(SystemExit): train(tmp_path / "run", [At(13, lambda t: os.kill(os.getpid(), signal.SIGTERM))], log_every=5)
    assert result(resume(tmp_path / "run")) == result(whole)


@pytest.mark.parametrize("changes", [dict(ema=.9), dict(accumulate=4), dict(optimizer="adam_atan2"),
                                     dict(loss_type="softmax_cross_entropy"),
                                     dict(drop_last=True, batch_size=20), dict(batch_size=20), dict(epochs=4, steps=0)], ids=str)
def test_resume_under_every_kind_of_state(tmp_path, changes):
    changes, copy = dict(steps=12) | changes, tmp_path / "copy"
    whole = train(tmp_path / "whole", **changes)
    class Stop(Exception): pass
    def stop(trainer): raise Stop
    with pytest.raises(Stop): train(copy, [At(7, stop)], **changes)
    assert Run(copy).checkpoints.step.max() == 6
    assert result(resume(copy)) == result(whole)


@pytest.mark.parametrize("changes", [dict(arch="trm", H_layers=0, L_cycles=3, no_ACT_continue=True, puzzle_emb_len=2),
                                     dict(mlp_t=True, pos_encodings="none"), dict(pos_encodings="learned", puzzle_emb_ndim=0),
                                     dict(arch="transformer", H_cycles=1, L_cycles=1, halt_max_steps=1, no_ACT_continue=True),
                                     dict(forward_dtype="bfloat16")], ids=lambda c: "-".join(map(str, c.values())))
def test_resume_of_every_kind_of_model(tmp_path, changes):
    with pytest.raises(SystemExit):
        train(tmp_path / "run", [At(8, lambda t: os.kill(os.getpid(), signal.SIGTERM))], fresh(**changes), steps=12, eval_every=6)
    assert result(resume(tmp_path / "run")) == result(train(tmp_path / "whole", model=fresh(**changes), steps=12, eval_every=6))


def test_a_damaged_newest_checkpoint(whole, tmp_path, capsys):
    shutil.copytree(whole.path, tmp_path / "run")
    for name in ("best", "final"): shutil.rmtree(tmp_path / "run/checkpoints" / name)
    file = tmp_path / "run/checkpoints/step_000024/training.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    run = resume(tmp_path / "run")
    assert "passed over a damaged checkpoint" in (said := capsys.readouterr().out) and str(file) in said
    assert result(run, ["final"]) == result(whole, ["final"])


def test_resume_of_a_finished_run_changes_nothing(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    assert result(resume(tmp_path / "run")) == result(whole)


@pytest.mark.parametrize("step", [1, 9])
def test_resume_where_no_checkpoint_is_wanted_by_steps(tmp_path, step):
    "Killed before the first one by the clock, after an evaluation or before: from the beginning, which the folder holds until it is not needed."
    whole = train(tmp_path / "whole", checkpoint_every=0)
    with pytest.raises(RuntimeError): train(tmp_path / "run", [At(step, lambda t: fail())], checkpoint_every=0)
    assert "step_000000" in Run(tmp_path / "run").checkpoints.name.tolist()
    assert result(resume(tmp_path / "run")) == result(whole)
    assert Run(tmp_path / "run").checkpoints.name.tolist() == ["best", "final"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": [1, 2], "lr": [1]}', '{"lr": [1]}', None])
def test_a_damaged_history_is_made_again_from_the_checkpoint(whole, tmp_path, text):
    "Of an unfinished run, and of a finished one whose last checkpoint is there."
    for name in ("unfinished", "finished"):
        path = tmp_path / name
        shutil.copytree(whole.path, path)
        for part in ("final", "step_000024", "step_000022") if name == "unfinished" else (): shutil.rmtree(path / "checkpoints" / part)
        if text is None: (path / "training_history.json").unlink()
        else: (path / "training_history.json").write_text(text)
        assert result(resume(path), ["final"]) == result(whole, ["final"])


def test_a_checkpoint_older_than_its_history_and_record(whole, tmp_path):
    "What earlier versions wrote resumes as it did."
    path = tmp_path / "run"
    shutil.copytree(whole.path, path)
    for part in ("final", "step_000024"): shutil.rmtree(path / "checkpoints" / part)
    file = path / "checkpoints/step_000022/training.safetensors"
    tensors, state = load_tensors(file)
    files.save_tensors(file, {k: v for k, v in tensors.items() if not k.startswith("history.")},
                       {k: v for k, v in state.items() if k not in ("history", "trained_under")})
    assert result(resume(path)) == result(whole)


def test_resume_before_the_first_checkpoint(whole, tmp_path):
    class Stop(Exception): pass
    def stop(trainer): raise Stop
    with pytest.raises(Stop): train(tmp_path / "run", [At(1, stop)])
    assert result(resume(tmp_path / "run")) == result(whole)


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(whole, tmp_path, monkeypatch):
    real_save = files.save_file
    def failing(tensors, path, metadata):
        if "step_000012" in str(path): raise OSError(errno.ENOSPC, "No space left on device")
        return real_save(tensors, path, metadata)
    monkeypatch.setattr(files, "save_file", failing)
    with pytest.raises(OSError, match="step_000012: checkpoint not written.*No space left on device") as e: train(tmp_path / "run")
    assert "\n" not in str(e.value)
    checkpoints = tmp_path / "run/checkpoints"
    assert sorted(p.name for p in checkpoints.glob("*")) == ["best", "step_000006", "step_000008", "step_000010"]
    monkeypatch.undo()                                                    # room again: the lock is free, the run goes on
    assert result(resume(tmp_path / "run")) == result(whole)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file/run: cannot be written to"): train(tmp_path / "file/run")
    (tmp_path / "full").mkdir(); (tmp_path / "full/thing").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"): train(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir() if p.name != ".lock"] == ["thing"]


def test_two_resumes_at_once(whole, tmp_path):
    "One goes on, to the same bits; the other is refused, or finds the run finished where that took no longer than it waits for the lock."
    shutil.copytree(whole.path, tmp_path / "run")
    for name in ("final", "step_000024", "step_000022", "best"): shutil.rmtree(tmp_path / "run/checkpoints" / name)
    told = in_program("twice", tmp_path)
    assert len(told) == 5 and all(codes in ([0, 1], [0, 0]) for codes in told), told
    for i in range(5): assert result(tmp_path / f"run{i}") == result(whole)


def test_a_folder_that_became_read_only(whole, tmp_path, monkeypatch):
    "Every write fails with the system's words; nothing that was there has changed, and it goes on once the folder can be written to."
    path = tmp_path / "run"
    shutil.copytree(whole.path, path)
    for name in ("final", "step_000024"): shutil.rmtree(path / "checkpoints" / name)
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    def refuse(*args, **more): raise OSError(errno.EROFS, "Read-only file system")
    with monkeypatch.context() as m:
        for name in ("replace", "mkdir", "unlink", "rename"): m.setattr(os, name, refuse)
        with pytest.raises(OSError, match="Read-only file system") as e: resume(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before
    assert result(resume(path)) == result(whole)


@pytest.mark.parametrize("place", ["environment.json", "all__inputs", "training.safetensors", "config.json"])
def test_a_full_disk_at_the_beginning(whole, tmp_path, monkeypatch, place):
    "No run, no half of one; started again in the same folder it is the same."
    import builtins
    import io
    real_open, real_save, real_text = io.open, files.save_file, Path.write_text
    def full(path):
        if place in str(path): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(files, "save_file", lambda tensors, path, *more: full(path) or real_save(tensors, path, *more))
        m.setattr(Path, "write_text", lambda self, *args, **more: full(self) or real_text(self, *args, **more))
        m.setattr(builtins, "open", lambda file, *args, **more: full(file) or real_open(file, *args, **more))
        with pytest.raises(OSError, match="No space left on device"): train(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="broken off while its folder was made.*Start it again"): resume(tmp_path / "run")
    assert result(train(tmp_path / "run")) == result(whole)
    assert not [p for p in (tmp_path / "run").rglob(".*") if p.name != ".lock"]


def test_two_processes_on_one_folder(tmp_path):
    "A second process, while the first is at work: one clear error there, no harm here."
    told = []
    def second(trainer): told.append(subprocess.run([sys.executable, __file__, "resume", str(tmp_path / "run")], capture_output=True, text=True, timeout=120,
                                                    env=os.environ | {"PYTHONPATH": str(Path(runs_module.__file__).parents[1])}))
    run = train(tmp_path / "run", [At(5, second)])
    last = told[0].stderr.strip().splitlines()[-1]
    assert told[0].returncode == 1 and last == f"OSError: {tmp_path / 'run'}: another process is training in this folder"
    assert len(run.history) == 12
    with FolderLock(tmp_path / "run", "training"):
        with pytest.raises(OSError, match="another process"): resume(tmp_path / "run")
    with pytest.raises(FileExistsError, match="already holds a run"): train(tmp_path / "run")
    resume(tmp_path / "run")                                              # both errors left the lock free


# ---- several processes

def test_two_processes_are_one(tmp_path):
    """Same global batch, float32, 20 steps: losses within 1e-6 relative and weights within 1e-6 of one process; on two from their own
    checkpoint to the bit, on one from the checkpoint of two within the same bars."""
    in_program("ranked", tmp_path)
    one = Run(tmp_path / "one")
    assert one.history.train_lm_loss.nunique() == 20
    for name in ("two", "two-then-one"):
        other = Run(tmp_path / name)
        for column in ("train_lm_loss", "train_q_halt_loss", "train_loss", "train_accuracy_over_batch", "train_count", "lr", "test_lm_loss"):
            np.testing.assert_allclose(other.history[column], one.history[column], rtol=1e-6, err_msg=f"{name} {column}")
        largest, relative = gap(other.model("final"), one.model("final"))
        assert largest < 1e-6 and relative < 1e-6, (name, largest, relative)
    moved = gap(one.model("final"), fresh())[0]
    assert moved > 1e-3                                                   # the weights went a thousand times the bar
    assert result(tmp_path / "two-then-two", ["final"]) == result(tmp_path / "two", ["final"])
    assert json.loads((tmp_path / "two/environment.json").read_text())["world_size"] == 2


def test_a_signal_to_one_of_two_processes(tmp_path):
    told = in_program("signalled", tmp_path)
    assert told == dict(left=[3, 3], then=[0, 0])
    assert len(Run(tmp_path / "run").history) == 20


# ---- when it stops, and what is best

def test_a_loss_that_is_no_number(tmp_path):
    def poison(trainer): trainer.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 8: the loss is nan"): train(tmp_path / "run", [At(7, poison)])
    run = Run(tmp_path / "run")
    assert run.checkpoints.step.max() == 6 and not torch.isnan(run.model(6).lm_head.weight).any()
    assert run.history.train_lm_loss.notna().all()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    "A gradient overflows at a step whose checkpoint is due: its loss was finite, the weights after it are not."
    def poison(trainer): trainer.model.lm_head.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(DivergedError): train(tmp_path / "run", [At(5, poison)], keep=1, clip_norm=0)
    run = Run(tmp_path / "run")
    assert run.checkpoints.step.max() == 4 and all(torch.isfinite(v).all() for v in run.model(4).state_dict().values())


class Spoil(Callback):
    "Put a value into the state after a step, where no loss of that step can show it."
    def __init__(self, step, where, value): self.step, self.where, self.value = step, where, value
    def on_step(self, trainer):
        if trainer.step != self.step: return
        p = trainer.model.lm_head.weight
        tensor = {"weights": lambda: p.data, "average": lambda: trainer.ema.shadow[-1], "moments": lambda: trainer.optimizer.state[p]["exp_avg_sq"],
                  "table": lambda: trainer.model.puzzle_emb.weights}[self.where]()
        tensor.view(-1)[-1] = self.value


def all_finite(path):
    "That no file below a folder holds a number that is none; how many tensors were read."
    count = 0
    for file in Path(path).rglob("*.safetensors"):
        tensors = load_tensors(file)[0]
        about = {k: v for k, v in tensors.items() if v.is_floating_point() and not k.startswith("history.")}
        assert all(torch.isfinite(v).all() for v in about.values()), file
        count += len(about)
    rows = json.loads((path / "training_history.json").read_text()) if (path / "training_history.json").exists() else {}
    assert None not in rows.get("train_lm_loss", []) + rows.get("grad_norm", [])
    return count


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["weights", "average", "moments", "table"])
def test_a_diverged_state_is_never_saved(tmp_path, where, value):
    "At every step: between checkpoints (1, 3, 5), at one (2, 4), at an evaluation (3, 6), at the last (6). The run ends with the error, all files are finite."
    for step in range(1, 7):
        path = tmp_path / str(step)
        with pytest.raises(DivergedError) as e:
            train(path, [Spoil(step, where, value)], steps=6, eval_every=3, checkpoint_every=2, ema=.9, keep=0, clip_norm=0, log_every=1)
        assert "\n" not in str(e.value) and "training stopped, earlier checkpoints are kept" in str(e.value)
        assert all_finite(path) > 20 and "final" not in Run(path).checkpoints.name.tolist()
        assert Run(path).checkpoints.step.max() < step or step == 1
        shutil.rmtree(path)


@pytest.mark.parametrize("ema", [0, .9])
def test_weights_that_are_numbers_and_answer_none(tmp_path, ema):
    "The rate is so high that the first step ends at 1e36: finite, its loss was finite, and nothing comes of it."
    for steps in (1, 3):
        with pytest.raises(DivergedError, match="step 1: the .*model's answer|step 1: the parameter|step 2: the"):
            train(tmp_path / f"{steps}", steps=steps, lr=1e39, warmup_steps=0, eval_every=1, checkpoint_every=1, ema=ema, log_every=1)
        assert all_finite(tmp_path / f"{steps}") and Run(tmp_path / f"{steps}").checkpoints.name.tolist() == ["step_000000"]


def test_nothing_is_chosen_by_a_score_that_is_none(tmp_path, monkeypatch):
    from hrm_nb import callbacks
    def scored(model, held, **options):
        out = evaluate(model, held, **options)
        return out.summary.update(lm_loss=float("nan")) or out
    monkeypatch.setattr(callbacks, "evaluate", scored)
    with pytest.raises(DivergedError, match="step 8: the model's score is .*nan.*nothing can be chosen"): train(tmp_path / "run")
    assert set(Run(tmp_path / "run").checkpoints.name) == {"step_000002", "step_000004", "step_000006"}


class Script(Callback):
    "Give the held-out part a score by step, in place of the model's."
    def __init__(self, scores, monkeypatch):
        from hrm_nb import callbacks
        def scored(model, held, **options):
            out = evaluate(model, held, **options)
            if len(held) != 24: out.summary["exact_accuracy"] = scores[self.calls]; self.calls += 1
            return out
        self.calls = 0
        monkeypatch.setattr(callbacks, "evaluate", scored)


def test_best_is_the_best_on_held_out_puzzles(tmp_path, monkeypatch):
    "Whatever the test set says; among equals the lower held-out loss, and never a later one that is no better."
    seen = {}
    class Keep(Callback):
        def on_step(self, trainer): seen[trainer.step] = trainer.model.lm_head.weight.detach().clone()
    run = train(tmp_path / "run", [Keep(), Script([.1, .7, .3, .6], monkeypatch)], steps=16, eval_every=4, checkpoint_every=0)
    assert torch.equal(run.model("best").lm_head.weight, seen[8]) and torch.equal(run.model("final").lm_head.weight, seen[16])
    assert dict(zip(run.checkpoints.name, run.checkpoints.step)) == {"best": 8, "final": 16}
    assert run.history.held_out_exact_accuracy.dropna().tolist() == [.1, .7, .3, .6]


def test_the_held_out_part_is_not_trained_on(tmp_path):
    data = puzzles(64)
    kept, held = data.split(.25, seed=0)
    offered = set()
    class Look(Callback):
        def on_step(self, trainer): offered.update(map(bytes, trainer.carries[0].inputs.numpy().astype(np.uint8)))
    train(tmp_path / "run", [Look()], data=data, steps=40)
    grids = lambda p: set(map(bytes, p.inputs.astype(np.uint8)))
    assert offered == grids(kept) and not offered & grids(held)


def test_evaluations_score_as_many_test_examples_as_asked(tmp_path, monkeypatch):
    scored = []
    def note(model, puzzles, **options): scored.append(puzzles); return evaluate(model, puzzles, **options)
    monkeypatch.setattr("hrm_nb.callbacks.evaluate", note)
    for seed in (0, 0, 1): train(tmp_path / str(len(scored)), eval_examples=7, seed=seed, steps=4, eval_every=2, held_out=0.0)
    assert [len(p) for p in scored] == [7] * 6 and scored[0].hash == scored[1].hash == scored[2].hash != scored[4].hash
    scored.clear()
    train(tmp_path / "all", eval_examples=100, steps=2, held_out=0.0)
    assert [p.hash for p in scored] == [puzzles(24, seed=2).hash]


def test_an_average_of_a_short_run_is_one_of_trained_weights(tmp_path):
    "With a decay of 0.999 and 24 steps the published average is nearly the initial weights, the corrected one is not."
    initial = fresh()
    far = {}
    for corrected in (False, True):
        run = train(tmp_path / str(corrected), ema=.999, ema_corrected=corrected, eval_every=0)
        far[corrected] = gap(run.model("final"), initial)[1]
    assert far[False] < .2 * far[True]


def test_a_run_older_than_the_corrected_average_goes_on_as_it_began(tmp_path):
    "Its config.json does not know the setting; the published rule was the only one."
    whole = result(train(tmp_path / "whole", ema=.9, ema_corrected=False))
    with pytest.raises(SystemExit):
        train(tmp_path / "run", [At(7, lambda t: os.kill(os.getpid(), signal.SIGTERM))], ema=.9, ema_corrected=False)
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config["train"]["ema_corrected"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert result(resume(tmp_path / "run")) == whole


def test_best_says_how_it_was_chosen(tmp_path):
    held, none = train(tmp_path / "a"), train(tmp_path / "b", held_out=0.0)
    assert held.checkpoints.set_index("name").chosen_by["best"] == "held-out exact accuracy"
    assert none.checkpoints.set_index("name").chosen_by["best"] == "training loss, nothing is held out"


def test_patience(tmp_path, monkeypatch):
    "Two evaluations without improvement after the second: stop at the fourth, and say why."
    run = train(tmp_path / "run", [Script([.1, .5, .4, .3, .9, .9], monkeypatch)], eval_every=4, patience=2)
    assert run.history.step.max() == 16 and "no improvement in 2 evaluations" in run.history.stopped.dropna().tolist()
    assert dict(zip(run.checkpoints.name, run.checkpoints.step))["best"] == 8


def test_stop_at(tmp_path, monkeypatch):
    run = train(tmp_path / "run", [Script([.1, .5, .96, .3], monkeypatch)], eval_every=4, stop_at=.95)
    assert run.history.step.max() == 12 and "reached stop_at" in run.history.stopped.dropna().iloc[-1]
    assert dict(zip(run.checkpoints.name, run.checkpoints.step))["final"] == 12


def test_patience_counts_on_after_a_resume(tmp_path, monkeypatch):
    scores = [.1, .5, .4, .3, .9, .9]
    wanted = result(train(tmp_path / "whole", [Script(scores, monkeypatch)], eval_every=4, patience=2))
    script = Script(scores, monkeypatch)
    with pytest.raises(SystemExit): train(tmp_path / "run", [script, At(14, lambda t: os.kill(os.getpid(), signal.SIGTERM))], eval_every=4, patience=2)
    assert script.calls == 3 and result(resume(tmp_path / "run")) == wanted


def test_a_kill_after_the_stop_and_before_the_end(tmp_path, monkeypatch):
    "The last checkpoint was written by the step that stopped; final was not."
    wanted = result(train(tmp_path / "run", [Script([.1, .5, .4, .3, .9, .9], monkeypatch)], eval_every=4, patience=2))
    shutil.rmtree(tmp_path / "run/checkpoints/final")
    Script([.9, .9], monkeypatch)
    assert result(resume(tmp_path / "run")) == wanted


@pytest.mark.parametrize("corrected", [False, True])
def test_averaged_weights(tmp_path, corrected):
    """best, final and a step's model hold the average, computed here from the weights after every step: as published it begins with the
    initial weights; corrected it is the weighted mean of the weights that were trained."""
    decay, seen = .8, []
    class Keep(Callback):
        @torch.no_grad()
        def on_step(self, trainer): seen.append({k: v.double().clone() for k, v in trainer.model.named_parameters()})
    model = fresh()
    initial = {k: v.detach().double().clone() for k, v in model.named_parameters()}
    run = train(tmp_path / "run", [Keep()], model, ema=decay, ema_corrected=corrected, eval_every=0)
    shares = [(1 - decay) * decay ** (len(seen) - 1 - i) for i in range(len(seen))]
    average = {k: sum(share * weights[k] for share, weights in zip(shares, seen)) for k in initial}
    left = decay ** len(seen)
    if corrected: average = {k: v / (1 - left) for k, v in average.items()}
    else: average = {k: v + left * initial[k] for k, v in average.items()}
    for which in ("final", "best", 24):
        found = dict(run.model(which).named_parameters())
        for k, v in average.items(): torch.testing.assert_close(found[k].double(), v, rtol=0, atol=1e-6)
    assert gap(run.model("final"), model)[0] > 1e-4                       # the trained weights themselves are others
    table = run.model("final").puzzle_emb.weights
    assert torch.equal(table, model.puzzle_emb.weights)                   # the puzzle table is not averaged


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_are_the_batch(tmp_path, parts):
    "Losses within 1e-6 relative, weights within 1e-6 after 20 steps."
    settings = dataclasses.replace(SETTINGS, steps=20, lr=1e-4, puzzle_lr=1e-4)
    trainers = [Trainer(fresh(), puzzles(), dataclasses.replace(settings, accumulate=n)) for n in (1, parts)]
    for _ in range(20):
        for t in trainers: t.advance()
        a, b = [sum(o.loss.item() for o in t.outcomes) for t in trainers]
        assert math.isclose(a, b, rel_tol=1e-6)
    largest, relative = gap(*[t.model for t in trainers])
    assert largest < 1e-6 and relative < 1e-6
    assert gap(trainers[0].model, fresh())[0] > 1e-3


def test_compiled_and_plain_steps_agree(monkeypatch):
    "The graph that torch traces, without code generation, which needs a C++ compiler and a minute."
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic, options: plain(f, dynamic=dynamic, backend="aot_eager"))
    trainers = [Trainer(fresh(), puzzles(), dataclasses.replace(SETTINGS, lr=1e-4, puzzle_lr=1e-4, compile=compiled)) for compiled in (False, True)]
    for _ in range(6):
        for t in trainers: t.advance()
        a, b = [t.outcomes[0] for t in trainers]
        assert math.isclose(a.loss.item(), b.loss.item(), rel_tol=1e-5) and torch.equal(a.carry.halted, b.carry.halted)
    assert gap(*[t.model for t in trainers])[0] < 1e-5 < 1e-4 < gap(trainers[0].model, fresh())[0]


@pytest.mark.skipif(not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), reason="compiling needs a C++ compiler")
def test_a_compiled_run_resumes_to_the_same_bits(tmp_path, request):
    "Kernels that are generated, some of them parallel, must add up in a fixed order."
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(2)
    arch, data = dict(seq_len=100, hidden_size=64), patterns.make(96, size=10, seed=1)
    changes = dict(compile=True, steps=6, batch_size=64, eval_every=0, held_out=0.0)
    go = lambda name, *callbacks: fit(fresh(**arch), data, None, dataclasses.replace(SETTINGS, **changes), tmp_path / name, callbacks)
    whole = result(go("whole"))
    with pytest.raises(KeyboardInterrupt): go("cut", At(3, lambda t: os.kill(os.getpid(), signal.SIGINT)))
    assert result(resume(tmp_path / "cut")) == whole


def test_what_a_replayed_graph_returned_is_not_needed_later(monkeypatch):
    "A CUDA graph writes where it wrote before. There is none on a CPU, so its results are spoilt here when the next step begins."
    plain, replaying = [Trainer(fresh(), puzzles(), SETTINGS) for _ in range(2)]
    replaying.config, step, returned = dataclasses.replace(SETTINGS, cuda_graphs=True), replaying.training_step, []
    def spoil():
        for out in returned:
            for t in (*vars(out.carry).values(), out.loss.detach(), out.metrics, out.logits, out.q):
                if t is not None: t.fill_(1)
    def replay(*args): returned[:] = [step(*args)]; return returned[0]
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", spoil)
    replaying.training_step = replay
    for _ in range(6): plain.advance(); replaying.advance()
    assert gap(plain.model, replaying.model)[0] == 0 and torch.equal(plain.carries[0].z_H, replaying.carries[0].z_H) and torch.equal(plain.sums, replaying.sums)
    with pytest.raises(ValueError, match="cuda_graphs is True with compile False, accumulate 1 on device cpu; allowed are"):
        Trainer(fresh(), puzzles(), dataclasses.replace(SETTINGS, cuda_graphs=True, device="cpu"))


# ---- what is refused

def test_resume_of_something_else(whole, tmp_path):
    before = {f: f.read_bytes() for f in whole.path.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="lr was 0.003, now 1.0"): resume(whole.path, config=dataclasses.replace(SETTINGS, lr=1.0))
    with pytest.raises(ValueError, match="train set has hash .*the run was started with"): resume(whole.path, train=puzzles(64, seed=3))
    with pytest.raises(ValueError, match="test set has hash .*the run was started with"): resume(whole.path, test=puzzles(24, seed=3))
    with pytest.raises(FileNotFoundError, match="no run here"): resume(tmp_path)
    assert {f: f.read_bytes() for f in whole.path.rglob("*") if f.is_file()} == before
    resume(whole.path, train=puzzles(), test=puzzles(24, seed=2), config=SETTINGS)  # the same, passed on, is welcome


def test_a_configuration_that_was_changed(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole.path, path); shutil.rmtree(path / "checkpoints" / "final")
    config = json.loads((path / "config.json").read_text())
    config["model"]["hidden_size"] = 64
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model.hidden_size was 32, now 64"): resume(path)
    with pytest.raises(ValueError, match=r"its checkpoint of step 24: H_init is \(32,\), the configuration needs \(64,\)"): resume(path, accept_changes=True)


def unfinished(whole, path):
    shutil.copytree(whole.path, path)
    for part in ("final", "step_000024", "step_000022"): shutil.rmtree(path / "checkpoints" / part)
    return path


def edit(path, **changes):
    config = json.loads((path / "config.json").read_text())
    config["train"] |= changes
    (path / "config.json").write_text(json.dumps(config))


CHANGES = [dict(batch_size=8), dict(ema=.9), dict(lr=1e-4), dict(optimizer="adam_atan2"), dict(held_out=.5), dict(steps=30), dict(seed=4), dict(held_out=0.0),
           dict(accumulate=2), dict(loss_type="softmax_cross_entropy"), dict(clip_norm=0.0), dict(eval_every=6, patience=1), dict(log_every=3), dict(augment=False, drop_last=True)]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_an_edited_configuration_is_refused_or_accepted(whole, tmp_path, changes):
    "Refused with every field and both values, the folder as it was; accepted it trains to the end, and is what the run was trained under from then on."
    path = unfinished(whole, tmp_path / "run")
    edit(path, **changes)
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="config.json is not what the checkpoint was trained under") as e: resume(path)
    for name, value in changes.items():
        if getattr(SETTINGS, name) != value: assert f"train.{name} was {getattr(SETTINGS, name)!r}, now {value!r}" in str(e.value)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before
    run = resume(path, accept_changes=True)
    assert run.history.step.iloc[-1] == changes.get("steps", 24) or "stopped" in run.history
    assert all_finite(path) and run.history.step.is_monotonic_increasing and result(resume(path)) == result(run)


def test_settings_passed_on_and_accepted(whole, tmp_path):
    longer = dataclasses.replace(SETTINGS, steps=30)
    run = resume(unfinished(whole, tmp_path / "run"), config=longer, accept_changes=True)
    assert run.config["train"]["steps"] == run.config["steps"] == run.history.step.max() == 30
    resume(run.path, config=longer)                                       # from now on its own


def test_what_leaves_the_result_alone_may_be_edited(whole, tmp_path):
    path = unfinished(whole, tmp_path / "run")
    edit(path, keep=1, checkpoint_every=3)
    assert result(resume(path)) == result(whole)


def test_a_finished_run_whose_configuration_was_edited(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    edit(tmp_path / "run", lr=.5)
    with pytest.raises(ValueError, match="train.lr was 0.003, now 0.5"): resume(tmp_path / "run")


def test_another_data_hash_in_the_configuration(whole, tmp_path):
    path = unfinished(whole, tmp_path / "run")
    other = puzzles(64, seed=3)
    config = json.loads((path / "config.json").read_text())
    config["data"]["train"]["hash"] = other.hash
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="data.train was '.*', now '"): resume(path, train=other)
    assert all_finite(resume(path, train=other, accept_changes=True).path)


def test_unnamed_runs_begun_in_one_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class Clock:
        @staticmethod
        def now(): return __import__("datetime").datetime(2026, 1, 2, 3, 4, 5)
    monkeypatch.setattr("hrm_nb.training.datetime", Clock)
    paths = [str(train(None, steps=2, eval_every=0).path) for _ in range(3)]
    name = f"runs/{puzzles().domain.name}-20260102-030405"
    assert paths == [name, f"{name}-2", f"{name}-3"]


def test_a_stored_set_that_was_changed(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    file = tmp_path / "run/data/train/all__inputs.npy"
    array = np.load(file); array[0, 0] = array[0, 0] % 10 + 2; np.save(file, array)
    with pytest.raises(ValueError, match="train set has hash"): resume(tmp_path / "run")
    (tmp_path / "run/data/train/all__labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="all__labels.npy"): resume(tmp_path / "run")


@pytest.mark.parametrize("changes, words", [
    (dict(steps=0), "give one of them"), (dict(epochs=2), "give one of them"), (dict(steps=-1), "steps is -1"), (dict(optimizer="lion"), "allowed are adamw"),
    (dict(loss_type="mse"), "allowed are stablemax"), (dict(lr=-1e-3), "lr is -0.001"), (dict(lr=float("nan")), "lr is nan"),
    (dict(batch_size=0), "batch_size is 0"), (dict(accumulate=0), "accumulate is 0"), (dict(log_every=0), "log_every is 0"),
    (dict(eval_batch_size=0), "eval_batch_size is 0"), (dict(eval_examples=-1), "eval_examples is -1"), (dict(eval_every=-1), "eval_every is -1"), (dict(checkpoint_every=-5), "checkpoint_every is -5"),
    (dict(keep=-1), "keep is -1"), (dict(clip_norm=-1), "clip_norm is -1"), (dict(warmup_steps=-1), "warmup_steps is -1"),
    (dict(ema=1.5), "ema is 1.5"), (dict(held_out=-.1), "held_out is -0.1"), (dict(lr_min_ratio=2), "lr_min_ratio is 2"),
    (dict(held_out=0, patience=3), "need a held_out share"), (dict(held_out=0, stop_at=.9), "need a held_out share"),
    (dict(eval_every=0, patience=3), "patience is 3 and eval_every is 0"), (dict(eval_every=0, stop_at=.9), "stop_at is 0.9 and eval_every is 0")], ids=str)
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(ValueError, match=words): dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize("changes", [dict(lr="1e-4"), dict(steps=1.5), dict(batch_size=2.5), dict(keep=1.5), dict(betas=(.9,)), dict(betas=(.9, 2)),
                                     dict(betas=3), dict(seed=-1), dict(seed="a"), dict(drop_last="no"), dict(lr=float("inf"))], ids=str)
def test_settings_of_another_type(changes):
    with pytest.raises(ValueError, match=next(iter(changes))): dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize("changes, words", [
    (dict(batch_size=49), "larger than the set"), (dict(accumulate=3), "does not divide"), (dict(device="cuda:99"), "is not there"),
    (dict(device="toaster"), "is not there"), (dict(held_out=1.0), "both parts need at least one"), (dict(held_out=.001), "both parts need at least one")], ids=str)
def test_settings_that_do_not_fit_the_data_leave_no_folder(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words): train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes, words", [(dict(vocab_size=11), "vocab_size 11"), (dict(seq_len=16), "seq_len 16"),
                                            (dict(num_puzzle_identifiers=2), "num_puzzle_identifiers 2")], ids=str)
def test_a_model_that_does_not_fit_the_data(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words): train(tmp_path / "run", model=fresh(**changes))
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"process 2 on a machine with 1 GPUs; allowed is one process a GPU \(--nproc-per-node 1\)"): join_ranks("cuda")


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="allowed are auto, cpu, cuda, mps"): pick_device("cuda:99")
