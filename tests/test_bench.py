"Benchmarks: their rows, the record, and what is counted."
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from hrm_nb import bench
from hrm_nb.bench import BENCHES, COLUMNS, GPU_MODES, LONG, MACHINE, SHAPES, record, recorded_steps, row, step_flops, table
from hrm_nb.model import Reasoner, ReasonerConfig

RECORD = Path(__file__).parent.parent / "results" / "bench.csv"


def test_rows_have_all_columns_and_no_others():
    assert tuple(row("step", 1.0, "s", 2, shape="small", n=3)) == COLUMNS
    with pytest.raises(ValueError, match="no column colour; there are bench, shape"): row("step", 1, "s", colour="red")


def test_a_table_leaves_out_empty_columns():
    text = table([row("step", 1234.5678, "s", shape="small"), row("labels reproduced", None, "mazes", 2000)])
    assert "1,235" in text and "2,000" in text and "pattern" not in text and "None" not in text and "nan" not in text.lower()


@pytest.mark.parametrize("make, figures", [
    (lambda: bench.training_step("small", 2, 0, "cpu"), {"matrix rate", "arithmetic", "limit", "step", "examples", "share of the limit"}),
    (lambda: bench.evaluation_step("small", 2, 0, "cpu"), {"matrix rate", "arithmetic", "limit", "step", "examples", "share of the limit"}),
    (lambda: bench.overhead("small", 2, "cpu"), {"trainer's step", "bare step", "added by the trainer"}),
    (lambda: bench.copy_increment([0, 1], steps=2), {"matrix rate", "training", "exact", "training, median"}),
    (lambda: bench.imports(1), {"import beyond torch and pandas", "packages pulled in"})],
    ids=["training", "evaluation", "overhead", "copy-increment", "import"])
def test_what_a_benchmark_measures(make, figures):
    rows = make()
    assert {r["figure"] for r in rows} == figures
    assert all(tuple(r) == COLUMNS for r in rows)
    assert all(r["value"] >= 0 for r in rows if r["figure"] != "added by the trainer")  # a difference, below 0 by noise


def test_the_domains_have_theirs(monkeypatch, tmp_path):
    "On the committed samples, where no data root has the real sets: what cannot be measured is empty, not zero."
    monkeypatch.delenv("HRM_NB_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    puzzles = {r["figure"]: r for r in bench.sudoku(64, 2)}
    assert puzzles["puzzles solved as labelled"]["value"] == puzzles["puzzles solved as labelled"]["bar"] > 0
    assert puzzles["results that are no valid sudoku"]["value"] == 0 and puzzles["results that are no valid sudoku"]["n"] == 128
    mazes = {r["figure"]: r for r in bench.maze(5)}
    assert mazes["mazes solved"]["value"] > 0 and mazes["labels reproduced"]["value"] is None


def test_shapes_and_modes_are_named():
    rows = [r for r in bench.training_step("small", 1, 0, "cpu", targets=(True,)) if r["figure"] == "step"]
    assert [(r["shape"], r["mode"], r["n"]) for r in rows] == [("small", "with continue target", 1)]
    assert set(LONG) < set(BENCHES) and GPU_MODES[0] == {} and set(SHAPES) == {"small", "sudoku", "maze"}


def test_a_step_of_other_sizes_is_timed_and_no_shape_changes():
    c, before = replace(SHAPES["small"][0], hidden_size=32, no_ACT_continue=True), dict(SHAPES)
    rows = bench.training_step("mine", 1, 0, "cpu", targets=(False,), sizes=(c, 3))
    assert {r["shape"] for r in rows if r["figure"] == "step"} == {"mine"} and SHAPES == before
    assert next(r for r in rows if r["figure"] == "arithmetic")["value"] == pytest.approx(step_flops(c, 3) / 1e9)
    with pytest.raises(KeyError, match="mine"): bench.training_step("mine", 1, 0, "cpu")


def test_progress_is_shown_when_asked_and_only_then(capfd):
    bench.evaluation_step("small", 3, 0, "cpu")
    assert capfd.readouterr().err == ""                              # no terminal here
    bench.evaluation_step("small", 3, 0, "cpu", progress=True)
    out, err = capfd.readouterr()
    assert "small, evaluation" in err and out == ""


def counted(model, c, B):
    "Operations in the matrix products of one reasoning step, as torch counts them while they run."
    from torch.utils.flop_counter import FlopCounterMode
    from hrm_nb.act import reason
    data = bench.random_set(c, B)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        next(reason(model, torch.tensor(data.inputs).int(), torch.tensor(data.identifiers).int(), 1))
    return counter.get_total_flops()


SMALL = dict(vocab_size=7, seq_len=12, hidden_size=32, num_heads=4, expansion=2, puzzle_emb_ndim=0, forward_dtype="float32")


@pytest.mark.parametrize("c", [ReasonerConfig.hrm(**SMALL, H_layers=1, L_layers=2), ReasonerConfig.hrm(**SMALL, H_layers=2, L_layers=1, H_cycles=3, L_cycles=1),
                               ReasonerConfig.trm(**SMALL | dict(puzzle_emb_len=0)), ReasonerConfig.transformer(**SMALL, H_layers=1, L_layers=1)], ids=lambda c: c.arch)
def test_the_count_is_torchs_count(c):
    B, heads = 3, 2 * 3 * c.hidden_size * 2                          # the halt head, which we leave out, is B rows of D by 2
    assert abs(counted(Reasoner(c), c, B) - step_flops(c, B, training=False)) <= heads


def test_training_costs_more_than_evaluation_and_the_target_more_still():
    c, B = SHAPES["small"]
    evaluation, without, both = step_flops(c, B, training=False), step_flops(replace(c, no_ACT_continue=True), B), step_flops(c, B)
    assert evaluation < without < both < 3 * without


# ---- the record

def test_a_record_only_grows(tmp_path):
    path = tmp_path / "record.csv"
    record(path, "toy", [row("step", 1 / 3, "s", shape="small", mode="a, b", n=3), row("exact", 100, "%", seed=0, pattern="copy")])
    before = path.read_text()
    record(path, "toy", [row("third", .1 + .2, "")])
    after = path.read_text()
    assert after.startswith(before) and repr(1 / 3) in before and repr(.1 + .2) in after
    table = pd.read_csv(io.StringIO(after))
    assert list(table) == [*COLUMNS, *MACHINE] and table.seed.tolist()[1] == 0 and table.device_name.notna().all()
    assert ",0,copy," in before                                      # a seed stays a whole number


def test_a_record_of_other_columns_is_left_alone(tmp_path):
    path = tmp_path / "record.csv"
    path.write_text("what,value\nold,1\n")
    with pytest.raises(ValueError, match="its columns are what, value; a record has bench"): record(path, "toy", [row("step", 1)])
    assert path.read_text() == "what,value\nold,1\n"


def test_recorded_steps_by_hand(tmp_path):
    "Medians over the newest commit of each kind and machine; other figures and other benchmarks do not enter."
    def line(figure, value, commit, mode="evaluation", device="box", bar=None):
        return dict.fromkeys([*COLUMNS, *MACHINE]) | dict(bench="step", shape="small", mode=mode, figure=figure, value=value, bar=bar, device_name=device, commit=commit)
    lines = [line("step", 9, "old"), *[line("step", v, "new", bar=.03) for v in (.02, .04, .03)], line("limit", .01, "new"), line("limit", .02, "new"),
             line("matrix rate", 50, "new"), line("matrix rate", 10, "new", mode=None), line("examples", 7, "new"), line("step", .5, "old", device="other"),
             line("limit", .25, "old", device="other"), line("matrix rate", 5, "old", device="other")]
    pd.DataFrame(lines).to_csv(tmp_path / "record.csv", index=False)
    found = recorded_steps(tmp_path / "record.csv").set_index("device_name")
    assert found.loc["box", ["name", "runs", "commit"]].tolist() == ["small, evaluation", 3, "new"]
    assert found.loc["box", ["step_ms", "fastest_ms", "bar_ms", "limit_ms", "times_limit", "rate"]].tolist() == pytest.approx([30, 20, 30, 15, 2, 50])
    assert found.loc["other", ["runs", "times_limit"]].tolist() == [1, 2]


def test_the_committed_record_is_whole():
    known = pd.read_csv(RECORD)
    assert list(known) == [*COLUMNS, *MACHINE]
    assert known[["bench", "figure", "value", "device_name", "commit"]].notna().all().all()
    steps = known[known.figure == "step"]
    assert len(steps) and steps[["shape", "mode", "n"]].notna().all().all()
    assert known[known.figure == "matrix rate"].dtype.notna().all()
    assert known[known.figure == "exact"][["seed", "pattern", "n"]].notna().all().all()
    assert set(known.bench) <= set(BENCHES)
    assert {"sudoku, with continue target", "sudoku, compiled, without continue target"} <= set(recorded_steps(RECORD).name)
