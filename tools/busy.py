"""How a training keeps its speed beside other busy processes, for several ways to let threads wait.

busy.py                                        a short copy-increment training, idle and beside 1 and 2 busy processes
busy.py --busy 0 2 --settings none passive     only these; --threads 1 2, --rounds 3, --steps 80
busy.py --report --threads 0                   the whole of `hrm-nb report`, as `make report` starts it: minutes each
busy.py -- hrm-nb bench copy-increment         any other command

A busy process is a loop that uses one core. Rows are printed and added to results/busy_machine.csv (--out). Let the
machine be idle otherwise. A setting `none` takes the variables below out of the environment; a command that chooses a
way to wait by itself, as hrm-nb may, is then measured as it comes.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS:dict[str, dict[str, str]] = {
    "none": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spincount0": {"GOMP_SPINCOUNT": "0"},         # GNU's threads, torch's usual ones on Linux: no waiting awake
    "spincount1000": {"GOMP_SPINCOUNT": "1000"},   # ... a moment of it
    "spincount10000": {"GOMP_SPINCOUNT": "10000"},
    "spincount100000": {"GOMP_SPINCOUNT": "100000"},
    "blocktime0": {"KMP_BLOCKTIME": "0"},          # the same for Intel's and LLVM's threads
}
KNOWN = sorted({name for values in SETTINGS.values() for name in values} | {"OMP_NUM_THREADS", "MKL_NUM_THREADS"})
LOOP = "import os\np = os.getppid()\nwhile os.getppid() == p:\n    for _ in range(10**6): pass"  # ends with its parent
REPORT = [sys.executable, "-c", "from hrm_nb.cli import main; main()", "report"]
SKIPPED = 5  # the first steps warm up


@contextmanager
def busy(n:int):
    "While it lasts, `n` processes use a core each."
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(n)]
    try:
        if n: time.sleep(.5)
        yield
    finally:
        for loop in loops: loop.kill()
        for loop in loops: loop.wait()


def train(steps:int):
    "A short training of the recipe, in this process; prints its step times and what it ran on as JSON."
    from hrm_nb.recipes import build, recipe
    from hrm_nb.runs import environment
    from hrm_nb.training import fit
    changes = dict(steps=steps, device="cpu", held_out=0, log_every=1, eval_every=0, stop_at=0)
    chosen = recipe("copy-increment", train=changes)
    model, puzzles, _ = build(chosen)
    with tempfile.TemporaryDirectory() as folder:
        times = fit(model, puzzles, None, chosen.train, f"{folder}/run").history.step_s.iloc[SKIPPED:]
        print(json.dumps(dict(environment("cpu"), step_ms=1000 * times.mean(), median_ms=1000 * times.median())))


def measured(command:list[str], settings:dict[str, str], threads:int) -> dict:
    "Wall seconds of a command in an environment, and what its last line says if that is JSON."
    env = {k: v for k, v in os.environ.items() if k not in KNOWN} | settings
    env |= {"MPLBACKEND": "agg"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        env["HRM_NB_OUT"] = folder
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        wall = time.perf_counter() - begun
    if done.returncode: sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    last = (done.stdout.splitlines() or [""])[-1]
    return dict(json.loads(last) if last.startswith("{") else {}, wall_s=wall)


def add_row(path:Path, row:dict):
    "Append a row to a CSV file; a new file gets the names first."
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, row)
        if new: writer.writeheader()
        writer.writerow(row)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="how many busy processes")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="ways to wait")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1],
                        help="threads of the measured process; 0 = as it chooses itself")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, one after the other")
    parser.add_argument("--steps", type=int, default=80, help="steps of the training")
    parser.add_argument("--report", action="store_true", help="measure hrm-nb report")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "busy_machine.csv")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help="any other command, after --")
    return parser.parse_args()


def main():
    args = options()
    if args.train: return train(args.steps)
    from hrm_nb.runs import environment
    here = environment("cpu")
    name = "report" if args.report else " ".join(args.command) or f"copy-increment, {args.steps} steps"
    training = [sys.executable, __file__, "--train", "--steps", str(args.steps)]
    command = REPORT if args.report else args.command or training
    cases = [(n, setting, threads) for n in args.busy for threads in args.threads for setting in args.settings
             if threads != 1 or setting == args.settings[0]]  # one thread waits for nobody
    print(f"{'busy':>4} {'threads':>7} {'setting':>14} {'wall s':>8} {'step ms':>8}")
    for round_ in range(args.rounds):
        for n, setting, threads in cases:
            with busy(n): got = measured(command, SETTINGS[setting], threads)
            row = dict(what=name, busy=n, setting=setting, threads=threads, round=round_,
                       wall_s=round(got["wall_s"], 3),
                       step_ms=round(got["step_ms"], 3) if "step_ms" in got else "",
                       median_ms=round(got["median_ms"], 3) if "median_ms" in got else "", cores=os.cpu_count(),
                       device_name=here["device_name"], torch=here["torch"], commit=here["commit"])
            print(f"{n:>4} {threads:>7} {setting:>14} {row['wall_s']:>8} {row['step_ms']:>8}", flush=True)
            add_row(args.out, row)


if __name__ == "__main__": main()
