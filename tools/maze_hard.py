"""The Maze-Hard recipe in full: step times, training, evaluation with and without learned halting (results/maze_hard/).

python tools/maze_hard.py              on the best device there is; an H200 takes minutes, a CPU weeks. A GPU first
                                       times the step plain, compiled and as CUDA graphs, and trains in the fastest way
python tools/maze_hard.py --minutes 9  leaves after nine minutes with a checkpoint; the same command goes on, until
                                       summary.json is there
python tools/maze_hard.py --trial      the same path with a tiny model, a few mazes and steps, into a temporary folder

Maze-Hard is looked for below $HRM_NB_DATA, data/ and ~/.cache/hrm_nb, then on its hub.
"""
from pathlib import Path

from gpu_run import Job, options, run

TRIAL = dict(data=dict(name="generate", size=9, min_path=12, train=40, test=20),
             model=dict(hidden_size=32, num_heads=2, puzzle_emb_ndim=32, halt_max_steps=4, forward_dtype="float32"),
             train=dict(epochs=2, eval_every=2, checkpoint_every=2, log_every=1, warmup_steps=2))


def main():
    args = options(__doc__).parse_args()
    run(Job("maze-hard", Path("results/maze_hard"), TRIAL if args.trial else {}, shape="maze"), args)


if __name__ == "__main__": main()
