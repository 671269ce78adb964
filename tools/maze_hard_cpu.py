"""Score a run of the recipe maze-hard-cpu: checkpoints on held-out training mazes, the end once on the test mazes.

hrm-nb train maze-hard-cpu --run runs/maze-hard-cpu      the training, an hour of two cores; resumable
python tools/maze_hard_cpu.py runs/maze-hard-cpu         every checkpoint on 100 held-out mazes, to validation.csv
python tools/maze_hard_cpu.py runs/maze-hard-cpu --test  the final weights on the 1,000 test mazes, after each of 16
                                                         reasoning steps, to test.csv; with --ship the weights to
                                                         data/models/maze-hard-cpu
python tools/maze_hard_cpu.py runs/short --choice        what a run with other settings came to on the mazes it held
                                                         out, to choices.csv: what the recipe was chosen by
Files go to results/maze_hard_cpu/, or to --out. --limit 8 walks the same path with a few mazes.
"""
import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch

from hrm_nb.act import reason
from hrm_nb.domains import describe_domain
from hrm_nb.evaluation import evaluate
from hrm_nb.files import replace_file
from hrm_nb.model import Reasoner, count_parameters
from hrm_nb.puzzles import PuzzleSet, overlap
from hrm_nb.recipes import recipe
from hrm_nb.results import PROVENANCE, provenance, record
from hrm_nb.runs import Run
from hrm_nb.shipped import describe_data, models_folder, shipped, store_model
from hrm_nb.statistics import wilson

RATES = ("exact", "optimal", "valid")
SEED = 20_260  # of generated mazes
VARIED = ("arch", "H_cycles", "L_cycles", "expansion", "conv_size", "halt_max_steps", "batch_size", "lr",
          "muon_lr", "ema", "steps")


def sets(run:Run) -> tuple[PuzzleSet, PuzzleSet, PuzzleSet]:
    "The training mazes, those held out as they were published (not turned), and the test mazes."
    r = recipe("maze-hard-cpu")
    train, test = r.data.load()
    wanted = run.config["data"]["train"]["hash"]
    if train.hash != wanted:
        raise SystemExit(f"{run.path}: trained on the set {wanted[:12]}, at hand is {train.hash[:12]}")
    kept, held = train.split(run.config["train"]["held_out"], seed=run.config["train"]["seed"])
    return kept, held.take((held.tags.symmetry == "identity").to_numpy().nonzero()[0]), test


def counts(table:pd.DataFrame) -> dict:
    return {name: int(table[name].sum()) for name in RATES} | dict(of=len(table))


def seconds_to(history:pd.DataFrame, step:int|None=None) -> float:
    "What the training took until a step, or in all, without evaluations."
    taken = history.step.diff().fillna(history.step) * history.step_s
    return round(float(taken[history.step <= (step or history.step.max())].sum()), 1)


def validation(run:Run, held:PuzzleSet, file:Path, every:int=1) -> None:
    "A row a checkpoint that has none yet, of those whose step is a multiple of `every`."
    done = set(pd.read_csv(file).step) if file.exists() else set()
    depth = run.config["model"]["halt_max_steps"]
    steps = [int(c.step) for c in run.checkpoints.itertuples() if c.name.startswith("step_") and c.step not in done]
    for step in steps:
        if not step or step % every: continue
        last = by_steps(after_each_step(run.model(step), held, depth), dict(hash=held.hash[:12]))[-1]
        row = dict(step=step, seconds=seconds_to(run.history, step)) | last
        record(file, [row | provenance(run.config["train"]["seed"])], key=("step", "seed"))
        print(row, flush=True)


def choice(run:Run, file:Path) -> None:
    "A row of settings, time and the held-out mazes that the last evaluation solved, some of them turned."
    settings, end = run.config["model"] | run.config["train"] | dict(steps=run.config["steps"]), run.history.iloc[-1]
    n = int(end.held_out_count)
    row = {name: settings[name] for name in VARIED} | dict(seconds=seconds_to(run.history))
    row |= dict(exact=round(n * end.held_out_exact_accuracy), optimal=round(n * end.held_out_optimal),
                valid=round(n * end.held_out_valid), of=n, cells=round(end.held_out_accuracy, 6))
    row |= dict(seed=settings["seed"]) | {name: run.environment[name] for name in PROVENANCE}
    record(file, [row], key=(*VARIED, "seed"))
    print(row)


@torch.no_grad()
def after_each_step(model:Reasoner, puzzles:PuzzleSet, steps:int, batch:int=50) -> pd.DataFrame:
    "A row a maze and a step: exact, optimal, valid, cells, halt value."
    rows = []
    for start in range(0, len(puzzles), batch):
        part = puzzles.take(range(start, min(start + batch, len(puzzles))))
        inputs, ids = torch.from_numpy(part.inputs.copy()).int(), torch.from_numpy(part.identifiers.copy()).int()
        for k, answer in enumerate(reason(model, inputs, ids, steps), 1):
            score = part.domain.score(part.inputs, answer.logits.argmax(-1).numpy(), part.labels).reset_index(drop=True)
            rows.append(score.assign(maze=range(start, start + len(part)), step=k, q_halt=answer.q_halt.numpy()))
        print(f"{start + len(part)} of {len(puzzles)}", rows[-1].exact.mean(), flush=True)
    return pd.concat(rows, ignore_index=True)


def by_steps(table:pd.DataFrame, made:dict) -> list[dict]:
    "A row for each number of reasoning steps: right answers, all taken, halting as learned, and the surest step."
    wanting, rows = table[table.q_halt > 0].groupby("maze").step.min(), []
    for k, part in table.groupby("step"):
        stop = part.maze.map(wanting).fillna(k).clip(upper=k).astype(int)
        halted = table.merge(pd.DataFrame(dict(maze=part.maze, step=stop)), on=["maze", "step"])
        until = table[table.step <= k].sort_values("step")
        surest = counts(until.loc[until.groupby("maze").q_halt.idxmax()])
        rows.append(dict(steps=k, **counts(part), cells=round(part.accuracy.mean(), 6),
                         exact_halting=int(halted.exact.sum()), steps_halting=round(stop.mean(), 3),
                         **{f"{rate}_surest": surest[rate] for rate in RATES}, **made))
    return rows


def test(run:Run, puzzles:PuzzleSet, out:Path, steps:int) -> tuple[Reasoner, dict]:
    "Write test.csv and test_mazes.csv; the model as it is shipped, and its row at the depth of training."
    c, seed = run.config, run.config["train"]["seed"]
    with tempfile.TemporaryDirectory() as folder:
        about:dict = dict.fromkeys(("recipe", "data", "train", "seed", "environment", "scores"), {})
        store_model(f"{folder}/m", run.model("final"), about | dict(recipe="m"))
        model = shipped("m", folder=folder)
    table, depth = after_each_step(model, puzzles, steps), min(steps, c["model"]["halt_max_steps"])
    rows = by_steps(table, dict(hash=puzzles.hash[:12]) | provenance(seed))
    record(out / "test.csv", rows, key=("steps", "hash", "seed"))
    each = table[table.step == depth][["maze", *RATES, "accuracy", "q_halt"]]
    record(out / "test_mazes.csv", each.assign(seed=seed), key=("maze", "seed"))
    return model, rows[depth - 1]


def on_fresh(model:Reasoner, n:int) -> dict:
    "The scores of `n` generated mazes such as Maze-Hard holds: what anybody can ask again without the published set."
    result = evaluate(model, recipe("maze-hard-cpu").data.fresh(n, SEED), batch_size=50)
    counted = counts(result.puzzles)
    low, high = wilson(counted["exact"], n)
    return dict(exact=counted["exact"] / n, right=counted["exact"], count=n, low=float(low), high=float(high),
                optimal=counted["optimal"] / n, valid=counted["valid"] / n, seed=SEED)


def about_run(run:Run, kept:PuzzleSet, row:dict, seen:float, fresh:dict) -> dict:
    "What the shipped weights' file says of them."
    c, history = run.config, run.history
    r = recipe("maze-hard-cpu", train=c["train"])
    n, (low, high) = row["of"], wilson(row["exact"], row["of"])
    scores = dict(exact=row["exact"] / n, right=row["exact"], count=n, low=float(low), high=float(high),
                  optimal=row["optimal"] / n, valid=row["valid"] / n, cells=row["cells"],
                  exact_surest=row["exact_surest"] / n, optimal_surest=row["optimal_surest"] / n,
                  exact_learned=row["exact_halting"] / n, steps=row["steps_halting"], max_steps=row["steps"],
                  seen=seen, fresh=fresh, seed=None,
                  seconds=seconds_to(history), threads=run.environment["threads"],
                  puzzles="the 1,000 test mazes of Maze-Hard",
                  selection=dict(rule="the last weights", step=int(history.step.iloc[-1]), evaluations=0))
    data = describe_data(r.data) | dict(domain=describe_domain(kept.domain), puzzles=len(kept),
                                        hash=c["data"]["train"]["hash"])
    return dict(recipe="maze-hard-cpu", data=data, train=c["train"], seed=c["train"]["seed"],
                environment=run.environment, scores=scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--test", action="store_true", help="score the final weights on the test mazes, once")
    parser.add_argument("--choice", action="store_true", help="record a short run beside the others compared")
    parser.add_argument("--out", type=Path, default=Path("results/maze_hard_cpu"), help="folder of the results")
    parser.add_argument("--models", type=Path, default=models_folder(), help="folder of the models")
    parser.add_argument("--steps", type=int, default=16, help="reasoning steps on the test mazes")
    parser.add_argument("--ship", action="store_true", help="with --test: keep the weights among the models that ship")
    parser.add_argument("--fresh", type=int, default=200, help="with --ship: generated mazes that are scored too")
    parser.add_argument("--every", type=int, default=1, help="of the checkpoints, those whose step is a multiple of it")
    parser.add_argument("--limit", type=int, help="so many mazes only, for a trial")
    args = parser.parse_args()
    run = Run(args.run)
    if args.choice: return choice(run, args.out / "choices.csv")
    kept, held, puzzles = sets(run)
    if args.limit: held, puzzles = held.take(range(args.limit)), puzzles.take(range(args.limit))
    if not args.test: return validation(run, held, args.out / "validation.csv", args.every)
    model, row = test(run, puzzles, args.out, 4 if args.limit else args.steps)
    if args.ship:
        seen, fresh = len(overlap(kept, puzzles)) / len(puzzles), on_fresh(model, args.fresh)
        store_model(args.models / "maze-hard-cpu", model, about_run(run, kept, row, seen, fresh), replace=True)
    replace_file(args.out / "history.csv", lambda part: run.history.to_csv(part, index=False))
    print(row, f"{count_parameters(model):,} parameters", sep="\n")


if __name__ == "__main__": main()
