"""Learn 30x30 mazes from generated ones, small ones first; ask after every size how Maze-Hard goes by then.

python tools/maze_curriculum.py              a quarter of an hour of a core; broken off and started again it goes on
python tools/maze_curriculum.py --test       the last stage's weights on Maze-Hard's 1,000 test mazes, once
python tools/maze_curriculum.py --trial      the same path with a few small mazes and steps, into a temporary folder

No maze of Maze-Hard is trained on. Every stage is a run in runs/maze_curriculum/, which begins with the averaged
weights of the one before; rows go to results/maze_hard_cpu/curriculum.csv and curriculum_test.csv.
"""
import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from maze_hard_cpu import after_each_step, by_steps, counts, seconds_to

from hrm_nb import maze
from hrm_nb.evaluation import evaluate
from hrm_nb.model import Reasoner
from hrm_nb.puzzles import PuzzleSet
from hrm_nb.recipes import MazeData, recipe
from hrm_nb.results import provenance, record
from hrm_nb.runs import Run
from hrm_nb.training import fit, resume


@dataclass(frozen=True)
class Stage:
    "Mazes of one size, and how long they are learned."
    size: int       # cells a side
    min_path: int   # of the shortest path
    mazes: int      # generated
    steps: int      # of the optimiser
    batch: int
    thinking: int   # reasoning steps at most


SLOW_CYCLES, RATES = 1, dict(lr=4e-3, muon_lr=.02)  # where the recipe has others

STAGES = (Stage(10, 20, 20_000, 800, 32, 4), Stage(16, 40, 8000, 500, 32, 6), Stage(22, 65, 6000, 700, 16, 8),
          Stage(30, 110, 6000, 2000, 16, 8))
TRIAL = (Stage(6, 8, 40, 4, 4, 2), Stage(8, 10, 40, 4, 4, 2))


def model_of(stage:Stage, before:Reasoner|None, seed:int) -> Reasoner:
    "A model that reads the stage's mazes, with the weights of the one before; none depends on the size of the grid."
    config = dataclasses.replace(recipe("maze-hard-cpu").model, vocab_size=6, seq_len=stage.size ** 2,
                                 H_cycles=SLOW_CYCLES, halt_max_steps=stage.thinking)
    model = Reasoner(config, seed=seed)
    if before is not None: model.load_state_dict(before.state_dict())
    return model


def trained(stage:Stage, before:Reasoner|None, folder:Path, seed:int) -> Run:
    "The stage's run: finished already, gone on with, or made."
    if (folder / "config.json").exists(): return resume(folder, progress=True)
    mazes = maze.generate(stage.mazes, size=stage.size, min_path=stage.min_path, seed=1000 + seed)
    train, again = recipe("maze-hard-cpu").train, .5 if before is not None else 1.0  # of the rates: it knows a lot
    held_out = 200 / len(mazes) if len(mazes) > 1000 else .2
    config = dataclasses.replace(train, steps=stage.steps, batch_size=stage.batch, held_out=held_out, ema=.99,
                                 held_out_examples=0, seed=seed, device="cpu", checkpoint_every=100, keep=1,
                                 **{name: rate * again for name, rate in RATES.items()})
    return fit(model_of(stage, before, seed), mazes, None, config, folder, progress=True)


def scored(stage:Stage, run:Run, hard:PuzzleSet) -> list[dict]:
    "A row for mazes held out of the stage, and rows for Maze-Hard's held-out training mazes, thinking longer."
    model = run.model("final")
    about = dataclasses.asdict(stage) | dict(seconds=seconds_to(run.history))
    _, own = run.puzzles("train").split(run.config["train"]["held_out"], seed=run.config["train"]["seed"])
    rows = [("own size", own, stage.thinking), *(("maze-hard, held out", hard, n) for n in (16, 32))]
    def asked(p, n): return counts(evaluate(model, p, max_steps=n, batch_size=50).puzzles)
    return [about | dict(mazes_asked=name, asked_steps=n, **asked(p, n)) for name, p, n in rows]


def hard_mazes(n:int) -> PuzzleSet:
    "Training mazes of Maze-Hard, the same that the recipe maze-hard-cpu holds out."
    r = recipe("maze-hard-cpu")
    train, _ = MazeData(symmetries="none").load()
    return train.split(r.train.held_out, seed=r.train.seed)[1].take(range(n))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="score the last stage on the test mazes, once")
    parser.add_argument("--trial", action="store_true", help="tiny sizes, temporary folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/maze_curriculum"))
    parser.add_argument("--out", type=Path, default=Path("results/maze_hard_cpu"), help="folder of the results")
    args = parser.parse_args()
    stages, asked = (TRIAL, 4) if args.trial else (STAGES, 100)
    if args.trial: args.runs, args.out = (Path(tempfile.mkdtemp()) / name for name in ("runs", "out"))
    torch.set_num_threads(1)
    hard, before = hard_mazes(asked), None
    for stage in stages:
        run = trained(stage, before, args.runs / f"{stage.size}x{stage.size}", args.seed)
        rows, before = scored(stage, run, hard), run.model("final")
        record(args.out / "curriculum.csv", [row | provenance(args.seed) for row in rows],
               key=("size", "seed", "mazes_asked", "asked_steps"))
        print(*rows, sep="\n", flush=True)
    if args.test or args.trial:
        puzzles = MazeData().load()[1]
        table = after_each_step(before, puzzles.take(range(4)) if args.trial else puzzles, 4 if args.trial else 32)
        rows = by_steps(table, dict(hash=puzzles.hash[:12]) | provenance(args.seed))
        record(args.out / "curriculum_test.csv", rows, key=("steps", "hash", "seed"))


if __name__ == "__main__": main()
