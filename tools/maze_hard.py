"""The Maze-Hard recipe in full: step times, training, evaluation with and without learned halting (results/maze_hard/).

python tools/maze_hard.py            on the best device there is; an H200 takes minutes, a CPU weeks. A GPU first times
                                     the step plain, compiled and as CUDA graphs, and trains in the fastest way
python tools/maze_hard.py --trial    the same path with a tiny model, a few mazes and steps, into a temporary folder

Maze-Hard is looked for below $HRM_NB_DATA, data/ and ~/.cache/hrm_nb, then on its hub.
"""
import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from hrm_nb import bench
from hrm_nb.analysis import halting, steps_table
from hrm_nb.evaluation import evaluate
from hrm_nb.recipes import build, recipe
from hrm_nb.runs import environment, write_json
from hrm_nb.training import fit, pick_device

TRIAL = dict(data=dict(name="generate", size=9, min_path=12, train=40, test=20),
             model=dict(hidden_size=32, num_heads=2, puzzle_emb_ndim=32, halt_max_steps=4),
             train=dict(epochs=2, eval_every=2, checkpoint_every=2, log_every=1, warmup_steps=2))


def scored(model, puzzles, halt):
    "Scores and seconds of one way to evaluate."
    evaluate(model, puzzles.take(range(min(8, len(puzzles)))), halt=halt)        # warms up
    begun = time.perf_counter()
    result = evaluate(model, puzzles, halt=halt)
    return result, dict(result.summary, seconds=time.perf_counter() - begun, halting=halting(result))


def timed(device, modes):
    "Step times of the recipe's shape in every mode, modes that failed with their error, and the fastest mode."
    rows, failed, best = [], {}, ({}, float("inf"))
    for mode in modes:
        try: more = bench.training_step("maze", device=str(device), targets=(True,), **mode)
        except Exception as e:                                                   # without a compiler the run goes on
            failed[str(mode)] = f"{type(e).__name__}: {e}".splitlines()[0]
            continue
        took = next(r["value"] for r in more if r["figure"] == "step")
        rows, best = rows + more, min(best, (mode, took), key=lambda pair: pair[1])
    return rows, failed, best[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="tiny sizes, temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/maze_hard"), help="folder of the results")
    args = parser.parse_args()
    device = pick_device("auto")
    changes = TRIAL if args.trial else {}
    timing, failed, mode = timed(device, bench.GPU_MODES if device.type == "cuda" and not args.trial else ())
    print(bench.table(timing) if timing else "step time: not measured here",
          *(f"failed: {m}: {e}" for m, e in failed.items()),
          f"training with {mode or 'no compilation'}", sep="\n", flush=True)
    r = recipe("maze-hard", data=changes.get("data"), model=changes.get("model"),
               train=changes.get("train", {}) | mode | dict(seed=args.seed))
    out = Path(tempfile.mkdtemp()) if args.trial else args.out
    out.mkdir(parents=True, exist_ok=True)
    model, train, test = build(r)
    begun = time.perf_counter()
    run = fit(model, train, test, r.train, out / "run", progress=True)
    seconds = time.perf_counter() - begun
    best = run.model("final", device)
    results = {halt: scored(best, test, halt) for halt in ("never", "learned")}
    write_json(out / "summary.json", dict(
        environment=environment(device, args.seed), config=run.config, train_s=seconds, timing=timing, failed=failed,
        evaluation={k: v for k, (_, v) in results.items()},
        speedup=results["never"][1]["seconds"] / results["learned"][1]["seconds"],
        memory_gb=torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None))
    shutil.copy(run.path / "training_history.json", out / "training_history.json")
    for halt, (result, _) in results.items(): result.puzzles.to_csv(out / f"test_{halt}.csv", index=False)
    steps_table(best, test).to_csv(out / "steps.csv", index=False)
    for halt, (_, s) in results.items():
        print(halt, {k: round(v, 4) for k, v in s.items() if isinstance(v, float)})
    print(f"trained in {seconds:.0f} s; results in {out}; the weights stay in {run.path}")


if __name__ == "__main__": main()
