"""A recipe in full, in pieces: step times, training, evaluation with and without learned halting.

What tools/maze_hard.py and tools/sudoku_extreme.py share. With --minutes M a call leaves after so many minutes, with a
checkpoint, and the same command goes on from there: with training, to the bits of one never stopped; then with the
test puzzles, a part at a time; summary.json is there when all is done. Every call gets on, by one step or one part.

In the folder of the results: timing.json, then training_history.json, test_never.csv and test_learned.csv (a row a
puzzle; of more than 10,000 puzzles they stay in the run folder), steps.csv and summary.json. The run is in run/ there.
"""
import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hrm_nb import bench
from hrm_nb.analysis import halting, steps_table
from hrm_nb.callbacks import Callback, Interrupted
from hrm_nb.evaluation import Evaluation, evaluate
from hrm_nb.files import replace_file
from hrm_nb.model import Reasoner
from hrm_nb.puzzles import PuzzleSet
from hrm_nb.recipes import Recipe, made_from, model_for, recipe
from hrm_nb.runs import Run, environment, read_json, write_json
from hrm_nb.training import fit, pick_device, resume

PART, TABLED = 2048, 10_000  # test puzzles between two looks at the clock; most rows of a table among the results


@dataclass(frozen=True)
class Job:
    "What to run, and where its results go."
    recipe: str
    out: Path
    changes: dict[str, dict] = field(default_factory=dict)  # fields of data, model and train to override
    shape: str = ""                                         # key of bench.SHAPES to time; "" = the recipe's own


def options(about:str, # what --help says
            ) -> argparse.ArgumentParser:
    "The options that every job has."
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="tiny sizes, temporary folder unless --out is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0, help="leave after so many; 0 = when all is done")
    parser.add_argument("--test", type=int, default=0, help="so many test puzzles are asked at the end; 0 = all")
    parser.add_argument("--out", type=Path, help="folder of the results")
    return parser


# ---- the clock

class Piece(Callback):
    "Ends a call when its time is up; remembers over all calls how long training took."
    def __init__(self, minutes:float, # of this call; 0 = no end
                 file:Path): # where the seconds are written when training has ended
        self.begun, self.minutes, self.file = time.monotonic(), minutes, file
        self.done, self.spent, self.memory = 0, 0.0, 0.0
        self.since = self.begun

    def over(self) -> bool:
        "Whether time is up, and something was done."
        return self.done > 0 and self.minutes > 0 and time.monotonic() - self.begun > 60 * self.minutes

    def on_start(self, trainer): self.since = time.monotonic()
    def on_step(self, trainer): self.done += 1

    def before_step(self, trainer):
        if self.over(): raise Interrupted(None)

    def state(self):
        now = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0
        return dict(train_s=self.spent + time.monotonic() - self.since, memory_gb=max(self.memory, now))

    def restore(self, state): self.spent, self.memory = state.get("train_s", 0.0), state.get("memory_gb", 0.0)
    def on_end(self, trainer): write_json(self.file, self.state())


# ---- step times

def timed(shape, device, modes, target=True, sizes=None):
    "Step times of a shape, or of `sizes`, in every mode; modes that failed with their error; the fastest mode."
    rows, failed, best = [], {}, ({}, float("inf"))
    for mode in modes:
        try: more = bench.training_step(shape, device=str(device), targets=(target,), sizes=sizes, **mode)
        except Exception as e:                                                   # without a compiler the run goes on
            failed[str(mode)] = f"{type(e).__name__}: {e}".splitlines()[0]
            continue
        took = next(r["value"] for r in more if r["figure"] == "step")
        rows, best = rows + more, min(best, (mode, took), key=lambda pair: pair[1])
    return rows, failed, best[0]


def step_times(job:Job, r:Recipe, sets, device, modes, file:Path) -> dict: # timing, failed, mode
    "The step times, measured by the first call."
    if file.exists(): return read_json(file)
    model = model_for(r, sets).config
    sizes = None if job.shape else (model, r.train.batch_size)
    timing, failed, mode = timed(job.shape or job.recipe, device, modes, not model.no_ACT_continue, sizes)
    print(bench.table(timing) if timing else "step time: not measured here",
          *(f"failed: {m}: {e}" for m, e in failed.items()),
          f"training with {mode or 'no compilation'}", sep="\n", flush=True)
    write_json(file, dict(timing=timing, failed=failed, mode=mode))
    return dict(timing=timing, failed=failed, mode=mode)


# ---- training and evaluation, each as far as the time goes

def trained(job:Job, r:Recipe, sets:tuple[PuzzleSet, PuzzleSet], folder:Path, piece:Piece) -> Run|None:
    "The finished run; None where time was up before."
    try:
        if (folder / "config.json").exists():
            return resume(folder, *sets, callbacks=[piece], progress=True, config=r.train)
        return fit(model_for(r, sets), *sets, r.train, folder, [piece], progress=True,
                   recipe=made_from(job.recipe, r))
    except SystemExit:
        if piece.over(): return None
        raise


def summed(parts:list[dict]) -> dict:
    "The summary of all parts of a set from those of each."
    counts = [p["count"] for p in parts]
    names = parts[0].keys() - {"count", "part_s"}
    means = {k: float(np.average([p[k] for p in parts], weights=counts)) for k in parts[0] if k in names}
    exact, n = means["exact_accuracy"], sum(counts)
    return means | dict(q_halt_constant=max(exact, 1 - exact), right=round(exact * n), count=n,
                        seconds=sum(p["part_s"] for p in parts))


def scored(model:Reasoner, puzzles:PuzzleSet, halt:str, folder:Path, piece:Piece) -> tuple[pd.DataFrame, dict]|None:
    "Table and scores of one way to evaluate, from the parts in the folder and new ones; None where time was up."
    name, warm, parts, tables = f"{halt}_{puzzles.hash[:12]}", False, [], []
    for start in range(0, len(puzzles), PART):
        table, about = (folder / f"{name}_{start:07d}.{kind}" for kind in ("csv", "json"))
        if not about.exists():
            if piece.over(): return None
            if not warm: evaluate(model, puzzles.take(range(min(8, len(puzzles)))), halt=halt)
            warm, begun = True, time.perf_counter()
            result = evaluate(model, puzzles.take(range(start, min(start + PART, len(puzzles)))), halt=halt)
            seconds = time.perf_counter() - begun
            replace_file(table, lambda file, rows=result.puzzles: rows.to_csv(file, index=False))
            write_json(about, result.summary | dict(part_s=seconds))
            piece.done += 1
            print(f"{halt}: {start + len(result.puzzles):,} of {len(puzzles):,}", flush=True)
        tables.append(pd.read_csv(table, float_precision="round_trip"))
        parts.append(read_json(about))
    every = pd.concat(tables, ignore_index=True)
    summary = summed(parts)
    return every, summary | dict(halting=halting(Evaluation(summary, every, np.empty((0, 0)))))


# ---- all of it

def report(job:Job, run:Run, r:Recipe, test:PuzzleSet, asked:PuzzleSet, results:dict, timing:dict, out:Path) -> None:
    "Write the files of a finished run."
    spent, device = read_json(run.path / "spent.json"), pick_device("auto")
    steps = steps_table(run.model("final", device), asked.sample(TABLED, r.train.seed))
    shutil.copy(run.path / "training_history.json", out / "training_history.json")
    place = out if len(asked) <= TABLED else run.path
    for halt, (table, _) in results.items(): table.to_csv(place / f"test_{halt}.csv", index=False)
    steps.to_csv(out / "steps.csv", index=False)
    write_json(out / "summary.json", dict(
        environment=environment(device, r.train.seed), config=run.config, train_s=spent["train_s"],
        timing=timing["timing"], failed=timing["failed"], evaluation={k: v for k, (_, v) in results.items()},
        test=dict(hash=asked.hash, asked=len(asked), of=len(test)),
        speedup=results["never"][1]["seconds"] / results["learned"][1]["seconds"],
        memory_gb=spent["memory_gb"] or None))
    for halt, (_, s) in results.items():
        print(halt, f"{s['right']:,} of {s['count']:,}", {k: round(v, 4) for k, v in s.items() if isinstance(v, float)})
    print(f"trained in {spent['train_s']:.0f} s; results in {out}; the weights stay in {run.path}")


def run(job:Job, args:argparse.Namespace) -> None:
    "As much of a job as the time allows."
    out = args.out or (Path(tempfile.mkdtemp()) if args.trial else job.out)
    out.mkdir(parents=True, exist_ok=True)
    piece, device = Piece(args.minutes, out / "run" / "spent.json"), pick_device("auto")
    data, model, train = (job.changes.get(part, {}) for part in ("data", "model", "train"))
    r = recipe(job.recipe, data, model, train | dict(seed=args.seed))
    sets = r.data.load()
    modes = bench.GPU_MODES if device.type == "cuda" and not args.trial else ()
    timing = step_times(job, r, sets, device, modes, out / "timing.json")
    r = recipe(job.recipe, data, model, train | timing["mode"] | dict(seed=args.seed))
    done = trained(job, r, sets, out / "run", piece)
    if done is None: return print(f"time is up in the training; {out / 'run'} is saved, the same command goes on")
    asked, best, results = sets[1].sample(args.test, args.seed), done.model("final", device), {}
    for halt in ("never", "learned"):
        found = scored(best, asked, halt, done.path / "evaluation", piece)
        if found is None: return print(f"time is up in the evaluation; {done.path} keeps its parts, the same command "
                                       "goes on")
        results[halt] = found
    report(job, done, r, sets[1], asked, results, timing, out)
