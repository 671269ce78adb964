"""A crash at every operation on the disk: killed there, resumed or started again, a run ends in the bits of one that was never killed.

As databases are tested. A small training counts every operation that changes its folder (files opened for writing, flushes, renames, removals,
folders made) and is killed before one of them: each in turn under `make test-slow`, a seeded sample under `make test`. Once more it is killed after
half of a file was written. Run as a program, the file imports torch once and forks a child for every run.
"""
import builtins
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hrm_nb

STEPS, SAMPLE = 40, 7
CHANGING = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "chmod", "fsync", "link")  # of the module os


def settings():
    from hrm_nb.training import TrainConfig
    return TrainConfig(steps=STEPS, batch_size=16, lr=.1, puzzle_lr=1e-2, warmup_steps=4, lr_min_ratio=.1, clip_norm=1.0, ema=.5, device="cpu",
                       checkpoint_every=6, keep=2, eval_every=5, held_out=.25, patience=3, log_every=2)


def start(folder):
    "The training that is killed, in this process."
    from hrm_nb import patterns
    from hrm_nb.model import Reasoner, ReasonerConfig
    from hrm_nb.training import fit
    arch = dict(vocab_size=12, seq_len=9, num_puzzle_identifiers=3, puzzle_emb_ndim=16, hidden_size=16, num_heads=2, expansion=2, H_layers=1,
                L_layers=1, halt_max_steps=3, halt_exploration_prob=.5, forward_dtype="float32")
    return fit(Reasoner(ReasonerConfig.hrm(**arch), seed=0), patterns.make(48, size=3, seed=1), patterns.make(8, size=3, seed=2), settings(), folder)


def go_on(folder):
    "What a user does after a crash: resume what has begun, start again what has not."
    from hrm_nb.training import resume
    return resume(folder) if (folder / "config.json").is_file() else start(folder)


class Crash:
    "Counts the operations of this process below a folder, and kills it before one of them."
    def __init__(self, folder, at=None, torn=False):
        self.folder, self.at, self.torn = str(folder), at, torn
        self.seen, self.half = [], None

    def count(self, what, path, written=False):
        "Called before each operation."
        if self.half: self.die()                                          # the file of the operation before is written: half of it is kept
        if self.at == len(self.seen):
            if not (self.torn and written): self.die()
            self.half = path
        self.seen.append((f"{what} {os.path.relpath(path, self.folder)}", written))

    def die(self):
        if self.half:
            size = os.stat(self.half).st_size
            descriptor = os.open(self.half, os.O_WRONLY)
            os.ftruncate(descriptor, size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def path(self, given, dir_fd=None):
        "The path an operation is about if it is below the folder, else None."
        if isinstance(given, int):                                        # an open file
            try: given = os.readlink(f"/proc/self/fd/{given}")
            except OSError: return None
        if dir_fd is not None: given = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), given)
        path = os.path.abspath(os.fspath(given))
        return path if isinstance(path, str) and (path == self.folder or path.startswith(self.folder + "/")) else None

    def install(self):
        "Put the counter before the functions that change a folder; for a process that is not needed afterwards."
        from hrm_nb import files
        for name in CHANGING: setattr(os, name, self.counted(name, getattr(os, name)))
        real_open, real_save, real_low = builtins.open, files.save_file, os.open
        def opened(file, mode="r", *args, **more):
            path = self.path(file) if set(mode) & set("wax+") else None
            if path: self.count("open", path, written=True)
            return real_open(file, mode, *args, **more)
        def saved(tensors, path, *args):
            if self.path(path): self.count("save", self.path(path), written=True)
            return real_save(tensors, path, *args)
        def low(path, flags, *args, **more):
            found = self.path(path, more.get("dir_fd")) if flags & os.O_CREAT else None
            if found: self.count("create", found)
            return real_low(path, flags, *args, **more)
        builtins.open = io.open = opened
        files.save_file, os.open = saved, low
        return self

    def counted(self, name, real):
        def call(given, *args, **more):
            path = self.path(given, more.get("dir_fd", more.get("src_dir_fd")))
            if path: self.count(name, path)
            return real(given, *args, **more)
        return call


def state(folder):
    "All that must agree to the bit, and that nothing half made is left."
    import numpy as np

    from hrm_nb.files import load_tensors
    from hrm_nb.runs import Run
    run = Run(folder)
    history = run.history.drop(columns=["step_s", "examples_per_s", "memory_mb", "cpu_percent"])
    weights = {n: {k: v.numpy().tobytes() for k, v in sorted(load_tensors(folder / f"checkpoints/{n}/model.safetensors")[0].items())}
               for n in ("final", "best", run.checkpoints.name.iloc[-1])}
    lost = [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock"]
    assert np.isfinite(history.train_lm_loss).all() and not lost, lost
    return weights, history.to_csv(index=False), run.checkpoints.name.tolist(), run.environment["seed"]


def forked(function, *args):
    "How a child that calls `function` left: 0, 1 after an error (which it prints), or minus the signal that killed it."
    if not (child := os.fork()):
        code = 1
        try: function(*args); code = 0
        except BaseException as e: print(f"{type(e).__name__}: {e}", file=sys.stderr)
        finally: sys.stderr.flush(); os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counting(folder, out):
    "The operations of a whole run, written to a file beside it."
    crash = Crash(folder).install()
    start(folder)
    seen = list(crash.seen)
    out.write_text(json.dumps(seen))


def crash_once(folder, at, torn, wanted):
    "Kill a run at an operation and go on; what was wrong, or ''."
    shutil.rmtree(folder, ignore_errors=True)
    def killed(): Crash(folder, at, torn).install(); start(folder)
    if (left := forked(killed)) != -signal.SIGKILL: return f"left with {left}, not killed"
    if (left := forked(go_on, folder)): return f"did not go on: {left}"
    try: now = state(folder)
    except (AssertionError, OSError, ValueError) as e: return f"{type(e).__name__}: {e}"
    return "" if now == wanted else "ended differently: " + ", ".join(n for n, a, b in zip(("weights", "history", "names", "seed"), now, wanted) if a != b)


def crash_all(root, sample):
    "Kill at every operation, or a sample of them; what was counted and what went wrong."
    assert forked(counting, root / "whole", root / "seen.json") == 0
    seen, wanted = json.loads((root / "seen.json").read_text()), state(root / "whole")
    cases = [(at, False) for at in range(len(seen))] + [(at, True) for at, (_, written) in enumerate(seen) if written]
    if sample:
        dice = random.Random(sample)                                      # one of the beginning, one torn, others anywhere
        first = next(i for i, (what, _) in enumerate(seen) if what == "replace .config.json.part")
        torn = [c for c in cases if c[1]]
        cases = [(dice.randrange(first), False), (first, False), *dice.sample(torn, 2), *dice.sample(cases, SAMPLE - 4)]
    failed = {f"{'after half of' if torn else 'before'} {at}, {seen[at][0]}": why
              for at, torn in cases if (why := crash_once(root / "run", at, torn, wanted))}
    stopped = json.loads((root / "whole/training_history.json").read_text())
    return dict(operations=[what for what, _ in seen], cases=len(cases), failed=failed, steps=stopped["step"][-1], stopped=stopped["stopped"][-1])


def program(root, sample=0, limit=3000):
    "`crash_all` in a process that starts no threads, so that it can fork."
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(hrm_nb.__file__).parents[1])}
    done = subprocess.run([sys.executable, __file__, str(root), str(sample)], capture_output=True, text=True, timeout=limit, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


if __name__ == "__main__":
    import filelock, psutil, torch, torch._dynamo  # noqa: F401  what a run imports late: once here, so that no child has to
    from hrm_nb import runs, training  # noqa: F401
    torch.set_num_threads(1)
    runs._commit = lambda: None                                           # asks git, in a process of its own
    print(json.dumps(crash_all(Path(sys.argv[1]), int(sys.argv[2]))))
    sys.exit()


pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/fd").exists(), reason="kills forked children: needs fork and /proc")


def looked_at(told, stderr):
    "That the run is the one meant, with all kinds of operations, and that nothing failed."
    kinds = {what.split()[0] for what in told["operations"]}
    assert {"open", "save", "fsync", "replace", "unlink", "rmdir", "mkdir"} <= kinds, kinds
    places = " ".join(told["operations"])
    for place in (".lock", "config.json", "data/", "step_000000", "step_000006", "best", "final", "training_history.json"): assert place in places, place
    assert told["steps"] < STEPS and "no improvement" in told["stopped"], told
    assert told["failed"] == {}, (told["failed"], stderr[-2000:])


def test_a_sample_of_crashes(tmp_path):
    told, stderr = program(tmp_path, sample=1)
    looked_at(told, stderr)
    assert told["cases"] == SAMPLE


@pytest.mark.slow
def test_a_crash_at_every_operation(tmp_path):
    told, stderr = program(tmp_path)
    looked_at(told, stderr)
    assert told["cases"] > len(told["operations"]) > 200


def test_the_counter_counts(tmp_path):
    "An operation that is not counted would never be tested: names in the folder change only where one was seen."
    program_text = ("import os, sys; sys.path.insert(0, os.path.dirname(sys.argv[1])); import test_crash as t; from pathlib import Path; import json\n"
                    "root = Path(sys.argv[2]); c = t.Crash(root).install()\n"
                    "(root / 'a').mkdir(); (root / 'a/b').write_text('b'); (root / 'a/b').rename(root / 'a/c'); (root / 'd').touch(); open('/dev/null', 'w')\n"
                    "import shutil; shutil.rmtree(root / 'a'); print(json.dumps([what for what, _ in c.seen]))")
    env = os.environ | {"PYTHONPATH": str(Path(hrm_nb.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program_text, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120, env=env)
    assert json.loads(done.stdout) == ["mkdir a", "open a/b", "rename a/b", "create d", "unlink a/c", "rmdir a"], done.stderr
