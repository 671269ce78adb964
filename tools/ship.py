"""Train a recipe and put its weights and their scores where the package looks for them: data/models/<recipe>/.

python tools/ship.py sudoku-4x4              one command a model; one thread: on one machine the same bits
python tools/ship.py sudoku-4x4 --replace    also where there is one already, which else is refused before training
python tools/ship.py sudoku-4x4 --rescore    score the weights that are there again, and train nothing

The weights are those of the evaluation with the best held-out score; held-out puzzles are training puzzles. Models that
are asked by their surest step (LAST) give the weights after the last step, as --last makes any other do: held-out
puzzles are scored by the last reasoning step. The scores are of the stored weights, read back, on fresh puzzles of a
seed that neither training nor any choice has seen.
"""
import argparse
import tempfile
import time
from pathlib import Path

import torch
from statsmodels.stats.proportion import proportion_confint

from hrm_nb import sudoku
from hrm_nb.domains import describe_domain
from hrm_nb.evaluation import Evaluation, evaluate
from hrm_nb.puzzles import PuzzleSet, overlap
from hrm_nb.recipes import RECIPES, Recipe, build, recipe
from hrm_nb.runs import Run, environment
from hrm_nb.shipped import about_shipped, describe_data, models_folder, restore_data, shipped, shipped_puzzles
from hrm_nb.shipped import store_model
from hrm_nb.training import fit

COUNT, SEED = 2000, 20_260  # of the fresh puzzles that are scored
LAST = ("maze-10x10",)      # recipes whose last weights ship


def relatives(train:PuzzleSet, test:PuzzleSet) -> float|None:
    "The share of test puzzles that a symmetry makes a training puzzle; None where no canonical form is known."
    if test.domain.name != "sudoku" or test.domain.seq_len > 36: return None
    seen = set(map(bytes, sudoku.canonical(train.inputs)))
    return sum(bytes(form) in seen for form in sudoku.canonical(test.inputs)) / len(test)


def unseen(result:Evaluation, seen) -> dict:
    "The share of test puzzles that occur in the training set, and how many of the others are solved."
    others = result.puzzles.exact.drop(seen)
    return dict(seen=len(seen) / len(result.puzzles), exact_unseen=others.mean())


def scores(model, train:PuzzleSet, test:PuzzleSet) -> dict:
    "How many fresh puzzles a model solves: all steps taken, halting as learned, by the step trusted most."
    full, learned, surest = (evaluate(model, test, halt=halt) for halt in ("never", "learned", "surest"))
    right = int(full.puzzles.exact.sum())
    low, high = proportion_confint(right, len(test), method="wilson")
    return dict(exact=right / len(test), right=right, count=len(test), low=low, high=high,
                cells=full.summary["accuracy"], exact_learned=learned.summary["exact_accuracy"],
                exact_surest=surest.summary["exact_accuracy"],
                steps=learned.summary["steps"], max_steps=model.config.halt_max_steps,
                relatives=relatives(train, test), **unseen(full, overlap(train, test)))


def trained(r:Recipe, folder:Path, progress:bool) -> tuple[Run, PuzzleSet, dict]:
    "The run, its training set and what it cost."
    model, train, _ = build(r)
    begun, cpu = time.perf_counter(), time.process_time()
    run = fit(model, train, None, r.train, folder, progress=progress)
    cost = dict(seconds=time.perf_counter() - begun, cpu_seconds=time.process_time() - cpu,
                threads=torch.get_num_threads())
    return run, train, cost


def selection(run:Run, held_out:int, last:bool) -> dict:
    "By what the weights were chosen, and among how many."
    if last: return dict(rule="the last weights", step=int(run.config["steps"]), evaluations=0)
    step = int(run.checkpoints.set_index("name").step["best"])
    evaluations = int(run.history.held_out_exact_accuracy.notna().sum())
    return dict(rule="best exact accuracy on held-out training puzzles, ties by their loss", step=step,
                evaluations=evaluations, held_out=held_out)


def rescored(folder:Path, name:str) -> dict:
    "The record of a model that is there, its scores taken anew."
    about, model = about_shipped(name, folder), shipped(name, folder=folder)
    train, _ = restore_data(about["data"]).load()
    new = scores(model, train, shipped_puzzles(name, COUNT, SEED, folder=folder))
    about["scores"] |= new | dict(seed=SEED)
    store_model(folder / name, model, about, replace=True)
    return about["scores"]


def report(file:Path, s:dict) -> None:
    "Say what was made."
    print(f"{file.parent}: {file.stat().st_size:,} bytes, {s['right']} of {s['count']} fresh puzzles exact, "
          f"{s['exact_learned']:.2%} halting by itself after {s['steps']:.2f} steps; "
          f"trained {s['seconds']:.0f} s, {s['cpu_seconds']:.0f} of the processor")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES, metavar="recipe", help="name of a recipe that holds puzzles out")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and symmetries")
    parser.add_argument("--out", type=Path, default=models_folder(), help="folder of the models")
    parser.add_argument("--replace", action="store_true", help="put it in the place of the one that is there")
    parser.add_argument("--rescore", action="store_true", help="score the one that is there again")
    parser.add_argument("--last", action="store_true", help="the weights after the last step, not the best ones")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe's, for a trial")
    parser.add_argument("--progress", action="store_true", help="show a progress bar")
    args = parser.parse_args()
    target, weights = args.out / args.recipe, args.out / args.recipe / "model.safetensors"
    if args.rescore: return report(weights, rescored(args.out, args.recipe))
    if target.exists() and not args.replace: parser.error(f"{target} exists; --replace puts a new one in its place")
    torch.set_num_threads(1)
    last = args.last or args.recipe in LAST
    r = recipe(args.recipe, train=dict(seed=args.seed, device="cpu") | ({"steps": args.steps} if args.steps else {}))
    if not r.train.held_out: parser.error(f"{args.recipe} holds no puzzles out to choose by")
    made_on = environment("cpu", args.seed)
    with tempfile.TemporaryDirectory() as tmp:
        run, train, cost = trained(r, Path(tmp) / "run", args.progress)
        kept, held = train.split(r.train.held_out, seed=args.seed)
        data = describe_data(r.data) | dict(domain=describe_domain(train.domain), puzzles=len(kept), hash=train.hash)
        about = dict(recipe=args.recipe, data=data, train=r.train.to_dict(), seed=args.seed,
                     environment=made_on, scores={})
        model = run.model("final" if last else "best")
        store_model(Path(tmp) / args.recipe, model, about)      # scored as it will be read
        fresh = shipped_puzzles(args.recipe, COUNT, SEED, folder=tmp)
        score = scores(shipped(args.recipe, folder=tmp), train, fresh)
        about["scores"] = score | dict(seed=SEED, **cost, selection=selection(run, len(held), last))
        store_model(target, model, about, replace=args.replace)
    report(weights, about["scores"])


if __name__ == "__main__": main()
