"""HRM's or TRM's recipe for Sudoku-Extreme in full: step times, training, evaluation with and without learned halting.

python tools/sudoku_extreme.py --recipe trm-sudoku              or hrm-sudoku, the default; for a GPU: a CPU takes weeks
python tools/sudoku_extreme.py --recipe trm-sudoku --minutes 9  leaves after nine minutes with a checkpoint; the same
                                                                command goes on, until summary.json is there
python tools/sudoku_extreme.py --test 10000                     of the 423 thousand test puzzles so many, drawn by the
                                                                seed; without it all of them are asked, in parts
python tools/sudoku_extreme.py --data sudoku-hard               another set in the same layout, 9x9 too
python tools/sudoku_extreme.py --trial                          the same path with a tiny model, a few generated 4x4
                                                                sudokus and steps, into a temporary folder

Results go to results/sudoku_extreme/RECIPE/, those of another set to a folder of its name. Sudoku-Extreme is looked for
below $HRM_NB_DATA, data/ and ~/.cache/hrm_nb, then on its hub. While it trains, 1,000 test puzzles are scored for the
record instead of all; they decide nothing.
"""
from pathlib import Path

from gpu_run import Job, options, run

RECORD = dict(eval_examples=1000)
TRIAL = dict(data=dict(name="generate", box=(2, 2), train=40, test=20),
             model=dict(hidden_size=32, num_heads=2, puzzle_emb_ndim=32, puzzle_emb_len=1, halt_max_steps=2,
                        H_cycles=1, L_cycles=2, forward_dtype="float32"),
             train=dict(epochs=2, batch_size=16, eval_every=2, checkpoint_every=2, log_every=1, warmup_steps=2))


def main():
    parser = options(__doc__)
    parser.add_argument("--recipe", choices=("hrm-sudoku", "trm-sudoku"), default="hrm-sudoku")
    parser.add_argument("--data", default="sudoku-extreme", help="name of the set, or path of a folder or CSV")
    args = parser.parse_args()
    changes = TRIAL if args.trial else dict(data=dict(name=args.data), train=RECORD)
    run(Job(args.recipe, Path("results") / Path(args.data).stem.replace("-", "_") / args.recipe, changes), args)


if __name__ == "__main__": main()
