"The trace of one puzzle: its arrays against the evaluation, every domain, pictures, film and player, and bad requests."
import json
import re

import numpy as np
import pytest
from PIL import Image

from hrm_nb import arc, maze, patterns, sudoku
from hrm_nb.evaluation import evaluate
from hrm_nb.model import Reasoner, ReasonerConfig
from hrm_nb.puzzles import IGNORE, PuzzleSet
from hrm_nb.trace import Trace, projection, projection_figure, trace


def arc_set():
    pairs = [arc.encode_pair((np.full((3, 4), k + 1), np.full((4, 3), k + 2))) for k in range(3)]
    return PuzzleSet(np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs]), domain=arc.ARC)


SETS = {"patterns": lambda: patterns.make(8, size=3), "sudoku": lambda: sudoku.generate(4, box=(2, 3), givens=20),
        "maze": lambda: maze.generate(3, size=10, min_path=8), "arc": arc_set}


def model_of(puzzles, seed=0, **changes):
    sizes = {k: puzzles.metadata[k] for k in ("vocab_size", "seq_len", "num_puzzle_identifiers")}
    return Reasoner(ReasonerConfig.hrm(**sizes, **dict(puzzle_emb_ndim=16, hidden_size=16, num_heads=2, expansion=2, H_layers=1, L_layers=1,
                                                       H_cycles=1, L_cycles=1, halt_max_steps=3, forward_dtype="float32") | changes), seed=seed)


@pytest.fixture(scope="module", params=SETS)
def traced(request):
    puzzles = SETS[request.param]()
    model = model_of(puzzles)
    model.q_head.bias.data[:] = 0  # halting is undecided, so that both outcomes occur
    model.q_head.weight.data.normal_(std=.3, generator=None)
    return puzzles, model, trace(model, puzzles, 1, steps=5)


def with_arrays(t, **changes): return Trace(**{f: getattr(t, f) for f in t.__dataclass_fields__} | changes)


# ---- what it holds

def test_it_agrees_with_the_evaluation(traced):
    puzzles, model, t = traced
    for steps in (1, 3, 5):
        whole = evaluate(model, puzzles, max_steps=steps)
        np.testing.assert_array_equal(t.grids[steps - 1], whole.predictions[1])
        assert t.q_halt[steps - 1] == pytest.approx(whole.puzzles.q_halt[1], abs=1e-4)
        assert t.exact[steps - 1] == whole.puzzles.exact[1]
        assert 1 - t.wrong[steps - 1].sum() / t.counted.sum() == pytest.approx(whole.puzzles.accuracy[1])
    assert (t.halts_at or 5) == evaluate(model, puzzles, max_steps=5, halt="learned").puzzles.steps[1]


def test_its_arrays_are_plain_and_of_one_length(traced):
    puzzles, _, t = traced
    S = puzzles.domain.seq_len
    for name in ("grids", "confidence", "changed", "wrong", "conflicts"): assert getattr(t, name).shape == (5, S) and type(getattr(t, name)) is np.ndarray
    for name in ("q_halt", "q_continue", "would_halt", "moved_H", "moved_L", "p_halt"): assert getattr(t, name).shape == (5,)
    assert (t.confidence > 1 / puzzles.domain.vocab_size - 1e-6).all() and (t.confidence <= 1).all() and (t.moved_H > 0).all()


def test_changes_are_between_neighbours_and_start_at_the_puzzle(traced):
    _, _, t = traced
    for k in range(5):
        before = t.inputs if k == 0 else t.grids[k - 1]
        np.testing.assert_array_equal(t.changed[k], (t.grids[k] != before) & t.counted)


def test_the_table_has_a_row_a_step(traced):
    _, _, t = traced
    table = t.table()
    assert table.step.tolist() == [1, 2, 3, 4, 5] and table.would_halt.tolist() == t.would_halt.tolist()
    assert table.wrong.tolist() == t.wrong.sum(1).tolist() and table.rule_breaks.tolist() == t.conflicts.sum(1).tolist()
    assert table.verified.isna().all() == (t.verified is None)


def test_without_a_label_nothing_is_wrong_but_rules_still_break(traced):
    puzzles, model, t = traced
    labels = puzzles.labels.astype(np.int64)
    labels[1] = IGNORE
    blind = trace(model, puzzles.replace(labels=labels), 1, steps=5)
    assert blind.labels is None and blind.exact is None and not blind.wrong.any() and blind.counted.all()
    np.testing.assert_array_equal(blind.grids, t.grids)
    if puzzles.domain.name in ("sudoku", "maze"): np.testing.assert_array_equal(blind.conflicts, t.conflicts)
    assert blind.table().wrong.isna().all()
    blind.figure(), blind.strip()
    json.dumps(blind.frames(), allow_nan=False)


def test_how_far_the_states_moved_by_hand():
    puzzles = SETS["patterns"]()
    model = model_of(puzzles)
    from hrm_nb.act import reason
    import torch
    inputs, ids = torch.as_tensor(puzzles.inputs[:1].astype(np.int32)), torch.as_tensor(puzzles.identifiers[:1])
    states = [model.initial_states(1)[0]] + [s.z_H for s in reason(model, inputs, ids)]
    want = [float((b - a).pow(2).sum().sqrt() / b.pow(2).sum().sqrt()) for a, b in zip(states, states[1:])]
    np.testing.assert_allclose(trace(model, puzzles).moved_H, want, rtol=1e-5)


@pytest.mark.parametrize("changes", [dict(no_ACT_continue=True), dict(arch="trm", H_layers=0), dict(arch="transformer", halt_max_steps=1, no_ACT_continue=True),
                                     dict(forward_dtype="bfloat16"), dict(puzzle_emb_ndim=0)])
def test_every_kind_of_model(changes):
    puzzles = SETS["patterns"]()
    t = trace(model_of(puzzles, **changes), puzzles, steps=3)
    assert len(t) == 3 and np.isfinite(t.confidence).all() and t.continues != changes.get("no_ACT_continue", False)


def test_the_model_is_left_alone():
    puzzles = SETS["patterns"]()
    model = model_of(puzzles).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, puzzles)
    assert model.training and all(v.equal(before[k]) for k, v in model.state_dict().items())


# ---- what it shows

def test_every_figure_of_every_domain(traced):
    _, _, t = traced
    for fig in (t.figure(), t.figure(1), t.strip()):
        fig.canvas.draw()
        box = fig.bbox
        for text in [x for ax in fig.axes for x in (ax.title, *ax.texts)]:
            extent = text.get_window_extent()
            assert not text.get_text() or (extent.x0 >= -1 and extent.x1 <= box.x1 + 1 and extent.y1 <= box.y1 + 1), text.get_text()
    assert "<img" in t._repr_html_() and "<table" in t._repr_html_()


def test_the_gif_has_a_picture_a_step_and_the_same_bytes(traced, tmp_path):
    puzzles, _, t = traced
    short = with_arrays(t, **{f: getattr(t, f)[:2] for f in ("grids", "confidence", "q_halt", "q_continue", "would_halt", "moved_H", "moved_L")})
    one, two = [short.gif(tmp_path / "new" / name).read_bytes() for name in ("1.gif", "2.gif")]
    assert one == two
    with Image.open(tmp_path / "new" / "1.gif") as film: assert film.n_frames == 2


@pytest.mark.parametrize("domain", ["sudoku", "maze"])
def test_the_worst_film_is_small(domain, tmp_path):
    puzzles = sudoku.generate(1) if domain == "sudoku" else maze.generate(1, size=30, min_path=40)
    rng, S, n = np.random.default_rng(0), puzzles.domain.seq_len, 2  # noise in every cell: nothing packs worse
    t = Trace(domain=puzzles.domain, inputs=puzzles.inputs[0].astype(int), labels=puzzles.labels[0].astype(int), grids=rng.integers(1, 6, (n, S)),
              confidence=rng.random((n, S)), q_halt=np.zeros(n), q_continue=np.zeros(n), would_halt=np.zeros(n, bool), moved_H=np.ones(n), moved_L=np.ones(n))
    assert t.gif(tmp_path / "a.gif").stat().st_size < 500_000 * n / 16
    assert len(t.html()) < 3_000_000 * n / 16


def test_the_player_asks_no_network_and_keeps_its_bytes():
    puzzles = SETS["patterns"]()
    t = trace(model_of(puzzles), puzzles, steps=2)
    page, part = t.html(), t.html(page=False)
    assert page == t.html() and page.count("data:image/png;base64") == 2 and part in page and "<html" not in part
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page) and "fa fa-" not in page


def test_frames_are_json_and_match_the_arrays(traced):
    puzzles, _, t = traced
    frames = json.loads(json.dumps(t.frames(), allow_nan=False))
    assert frames["shape"] == list(puzzles.domain.shape) and len(frames["colours"]) == puzzles.domain.vocab_size == len(frames["written"])
    for k, step in enumerate(frames["steps"]):
        assert step == json.loads(json.dumps(t.frame(k + 1)))
        assert step["tokens"] == t.grids[k].tolist() and step["wrong"] == t.wrong[k].astype(int).tolist()
        assert step["conflict"] == t.conflicts[k].astype(int).tolist() and step["would_halt"] == bool(t.would_halt[k])


def test_frames_of_a_diverged_model_hold_no_nan(traced):
    _, _, t = traced
    broken = with_arrays(t, confidence=np.full_like(t.confidence, np.nan), q_halt=np.full_like(t.q_halt, np.nan))
    assert json.loads(json.dumps(broken.frames(), allow_nan=False))["steps"][0]["q_halt"] is None


# ---- many puzzles

def test_projection_of_batches_and_its_figure():
    puzzles = SETS["patterns"]()
    model = model_of(puzzles)
    table = projection(model, puzzles, 4)
    assert table[["row", "step"]].to_numpy().tolist() == [[r, k] for r in range(8) for k in range(1, 5)]
    shares = table.attrs["explained_variance"]
    assert 0 < shares[1] <= shares[0] and sum(shares) <= 1 + 1e-9 and abs(table[["x", "y"]].mean()).max() < 1e-6
    other = projection(model, puzzles, 4, batch_size=3)
    np.testing.assert_allclose(table[["x", "y"]], other[["x", "y"]], atol=1e-3)
    assert table.exact[table.step == 4].tolist() == evaluate(model, puzzles, max_steps=4).puzzles.exact.tolist()
    marked = table.assign(exact=(table.row % 2 == 0).astype("boolean"))
    names = [text.get_text() for text in projection_figure(marked).axes[0].get_legend().get_texts()]
    assert names == ["ends right (4)", "ends wrong (4)"]


def test_projection_of_unlabelled_puzzles():
    puzzles = SETS["patterns"]()
    table = projection(model_of(puzzles), puzzles.replace(labels=np.full(puzzles.labels.shape, IGNORE)), 2)
    assert table.exact.isna().all()
    assert projection_figure(table).axes[0].get_legend().get_texts()[0].get_text() == "no label (8)"


# ---- bad requests

@pytest.mark.parametrize("options, said", [
    (dict(row=8), "row is 8; allowed are 0..7"), (dict(row=-1), "row is -1"), (dict(row=1.5), "row is 1.5"), (dict(row="a"), "row is 'a'"),
    (dict(steps=0), "steps is 0; allowed are whole numbers from 1"), (dict(steps=2.5), "steps is 2.5"), (dict(steps="two"), "steps is 'two'"),
    (dict(loss_type="hinge"), "loss_type is 'hinge'; allowed are stablemax")])
def test_bad_requests_are_one_line(options, said):
    puzzles = SETS["patterns"]()
    with pytest.raises(ValueError, match=re.escape(said)) as e: trace(model_of(puzzles), puzzles, **options)
    assert "\n" not in str(e.value)


def test_puzzles_of_another_domain_are_refused():
    with pytest.raises(ValueError, match="the model has vocab_size 12, the set sudoku needs 8"): trace(model_of(SETS["patterns"]()), SETS["sudoku"]())
    with pytest.raises(ValueError, match="seq_len 9"): projection(model_of(SETS["patterns"]()), patterns.make(8, size=4))


def test_steps_outside_the_trace_are_refused(traced):
    for step in (0, 6, -1, 1.5, "x"):
        with pytest.raises(ValueError, match=r"allowed are 1\.\.5"): traced[2].figure(step)
        with pytest.raises(ValueError, match=r"allowed are 1\.\.5"): traced[2].frame(step)


def test_a_gif_that_cannot_be_written_leaves_nothing(tmp_path):
    puzzles = SETS["patterns"]()
    t = trace(model_of(puzzles), puzzles, steps=1)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="could not be written"): t.gif(tmp_path / "file" / "a.gif")
    assert (tmp_path / "file").read_text() == "kept"
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="allowed is more than 0"): t.gif(tmp_path / "a.gif", seconds=bad)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---- rules of the domains, told without a label

def test_sudoku_verifies_what_is_full_sound_and_keeps_the_clues():
    puzzles = sudoku.generate(6)
    d, x, y = puzzles.domain, puzzles.inputs, puzzles.labels.astype(int)
    assert d.verifies(x, y).all() and not d.conflicts(x, y).any()
    assert not d.verifies(x, x).any() and not d.conflicts(x, x).any()                # unfinished, nothing wrong
    assert not d.verifies(x, y[[1, 2, 3, 4, 5, 0]]).any()                            # right grids of other puzzles
    assert (d.conflicts(x, y[[1, 2, 3, 4, 5, 0]]) <= (x > 1)).all()                  # ... only their clues conflict
    for cell in range(81):
        other = y.copy()
        other[:, cell] = np.where(y[:, cell] == 10, 2, y[:, cell] + 1)
        found = d.conflicts(x, other)
        assert found[:, cell].all() and (found.sum(1) >= 3).all() and not d.verifies(x, other).any()
    blank = y.copy()
    blank[:, 5] = 1
    assert not d.verifies(x, blank).any() and (d.conflicts(x, blank).sum(1) == (x[:, 5] > 1)).all()


def test_maze_verifies_valid_paths_of_any_length():
    d = maze.domain((3, 5))
    x = maze.parse("S    \n     \n    G")
    drawn = {"S    \no    \nooooG": (True, True), "S ooo\no o o\nooo G": (True, False), "S    \n     \n    G": (False, False),
             "So   \noo   \n oooG": (False, False), "S    \no   #\nooooG": (False, False)}
    grids = np.stack([maze.parse(text) for text in drawn])
    both = list(zip(d.verifies([x] * 5, grids).tolist(), d.shortest([x] * 5, grids).tolist()))
    assert both == list(drawn.values())
    np.testing.assert_array_equal(d.conflicts([x] * 5, grids).any(1), [not valid for valid, _ in both])


def test_maze_conflicts_are_where_labels_are_broken():
    puzzles = maze.generate(200, size=12, min_path=8, seed=3)
    d, x, y = puzzles.domain, puzzles.inputs, puzzles.labels.astype(int)
    assert d.verifies(x, y).all() and d.shortest(x, y).all() and not d.conflicts(x, y).any()
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(y.shape) < .01, rng.integers(0, 6, y.shape), y)
    np.testing.assert_array_equal(d.verifies(x, noisy), ~d.conflicts(x, noisy).any(1))
    assert 10 < d.verifies(x, noisy).sum() < 190


def test_patterns_and_arc_cannot_tell():
    for name in ("patterns", "arc"):
        puzzles = SETS[name]()
        assert puzzles.domain.verifies(puzzles.inputs, puzzles.labels) is None
        assert not puzzles.domain.conflicts(puzzles.inputs, puzzles.inputs).any()
