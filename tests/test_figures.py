"Figures: tables in, figures out; readable where they are small; the committed ones drawn again from committed rows, byte for byte."
import io
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hrm_nb import arc, figures, maze, patterns, regenerate, style, sudoku
from hrm_nb.domains import IGNORE, show

ROOT = Path(__file__).parent.parent
COMMITTED = sorted(p for p in (ROOT / "figures").rglob("*") if p.is_file() and "_stand_in" not in p.name)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "All figures, drawn twice."
    folder = tmp_path_factory.mktemp("figures")
    with matplotlib.rc_context({"font.size": 23, "figure.dpi": 300, "savefig.bbox": "tight", "font.family": "serif"}):
        second = regenerate.figures(folder / "b")                       # somebody's own settings change nothing
    return regenerate.figures(folder / "a"), second


# ---- the committed figures

def test_drawn_twice_they_are_the_same_bytes(drawn):
    first, second = drawn
    assert len(first) == len(set(first)) == len(regenerate.DRAWINGS)
    for a, b in zip(first, second): assert a.read_bytes() == b.read_bytes(), a.name


def test_every_committed_figure_is_drawn_and_every_drawn_one_committed(drawn):
    assert {p.relative_to(ROOT / "figures") for p in COMMITTED} == {Path(p.parent.name) / p.name for p in drawn[0]}


def test_the_committed_figures_are_those_of_the_committed_rows(drawn):
    "As pictures, not as bytes: another build of the PNG library packs the same picture otherwise."
    for path in drawn[0]:
        here, there = (np.asarray(Image.open(p).convert("RGB"), int) for p in (path, ROOT / "figures" / path.parent.name / path.name))
        assert here.shape == there.shape, path.name
        assert np.abs(here - there).mean() < .5, f"{path.parent.name}/{path.name} is not what `make figures` draws"


def test_no_figure_needs_a_dark_page_to_be_white_or_a_phone_to_be_wide(drawn):
    for path in drawn[0]:
        image = Image.open(path)
        assert np.asarray(image.convert("RGBA"))[..., 3].min() == 255, f"{path.name} is transparent"
        assert image.width <= 100 * style.WIDTH + 1 and set(image.info) <= {"dpi"}, (path.name, image.info)


def test_their_text_can_be_read_at_390_pixels():
    for drawing in regenerate.DRAWINGS:
        fig = drawing.draw(*(rows.read(ROOT / "results") for rows in drawing.rows))
        assert style.smallest_text(fig) >= 7, drawing.name
        for ax in fig.axes: assert ax.get_xlabel() or ax.get_ylabel() or ax.images or ax.get_title() or not ax.lines


def test_some_of_them_and_wrong_names(tmp_path):
    assert [p.name for p in regenerate.figures(tmp_path, only="cycles")] == ["cycles.png"]
    assert len(regenerate.figures(tmp_path, only=["cycles/cycles", "earlier_shares"])) == 2
    with pytest.raises(ValueError, match="no figure 'cycels'; there are ambiguous_ceiling"): regenerate.figures(tmp_path, ["cycels"])


def test_missing_and_damaged_rows_are_named_and_nothing_is_written(tmp_path):
    rows = tmp_path / "results"
    shutil.copytree(ROOT / "results", rows)
    (rows / "earlier_shares/shares.csv").unlink()
    with pytest.raises(FileNotFoundError, match="shares.csv: no such file"): regenerate.figures(tmp_path / "out", results=rows)
    (rows / "earlier_shares/shares.csv").write_text("copies,seed\n1")
    with pytest.raises(ValueError, match="shares.csv.*cut short"): regenerate.figures(tmp_path / "out", results=rows)
    (rows / "earlier_shares/shares.csv").write_text("copies,seed,commit\n")
    with pytest.raises(ValueError, match="no rows were recorded yet"): regenerate.figures(tmp_path / "out", results=rows)
    assert not (tmp_path / "out").exists()


def test_other_rows_give_another_figure(tmp_path):
    rows = tmp_path / "results"
    shutil.copytree(ROOT / "results", rows)
    file = rows / "earlier_shares/shares.csv"
    table = pd.read_csv(file, dtype=str).assign(tokens="0.5")
    table.to_csv(file, index=False)
    a, b = (regenerate.figures(tmp_path / name, "earlier_shares", results=where)[0].read_bytes()
            for name, where in (("a", rows), ("b", ROOT / "results")))
    assert a != b


# ---- tables in, figures out

def png(fig):
    out = io.BytesIO()
    fig.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


SUMMARY = dict(a="step 1000", b="final", share_a=.61, share_b=.652, only_a=31, only_b=73, count=1000, p=5e-5, low=.021, high=.062)
KINDS = pd.DataFrame(dict(kind=["a", "b"], share=[.2, 1], low=[.1, .8], high=[.3, 1], count=[10, 2000]))
CURVES = pd.DataFrame([dict(run=run, step=step, part=part, measure=measure, value=.5 + .01 * step)
                       for run in ("first", "second") for part in ("train", "test")
                       for measure in ("lm_loss", "exact_accuracy") for step in (1, 5, 9)])
BELIEFS = pd.DataFrame(dict(believed=[.05, .95], share=[.2, .9], low=[.1, .8], high=[.3, 1], count=[30, 70]))
STEPS = pd.DataFrame([dict(halt="never", max_steps=k, mean_steps=float(k), exact_accuracy=.2 * k, accuracy=.9, count=50) for k in (1, 2, 3)]
                     + [dict(halt="learned", max_steps=3, mean_steps=1.5, exact_accuracy=.5, accuracy=.9, count=50)])
MADE = {
    "comparison": lambda: figures.comparison(SUMMARY, "made-up"),
    "no one changed sides": lambda: figures.comparison(dict(SUMMARY, only_a=0, only_b=0, low=np.nan, high=np.nan, p=1.)),
    "kinds": lambda: figures.shares_by_kind(KINDS),
    "scores": lambda: figures.scores_beside(KINDS.rename(columns=dict(kind="score"))),
    "checkpoints": lambda: figures.checkpoint_shares(KINDS.assign(step=[10, 20], gained=[None, 4], lost=[None, 1])),
    "runs": lambda: figures.runs_side_by_side(CURVES),
    "calibration": lambda: figures.halting_calibration(BELIEFS, dict(auroc=.8, calibration_error=.1)),
    "errors": lambda: figures.error_cells(np.array([[0, .5], [np.nan, 1]])),
    "no errors": lambda: figures.error_cells(np.zeros((30, 30))),
    "steps": lambda: figures.steps_and_halting(STEPS),
}


@pytest.mark.parametrize("name", MADE)
def test_a_table_gives_a_readable_figure_and_the_same_again(name):
    import matplotlib.pyplot as plt
    open_before = plt.get_fignums()
    fig = MADE[name]()
    assert style.smallest_text(fig) >= 7 and fig.get_figwidth() <= style.WIDTH
    assert png(MADE[name]()) == png(MADE[name]())
    assert plt.get_fignums() == open_before


def test_a_comparison_shows_its_numbers():
    fig = figures.comparison(SUMMARY)
    left, right = fig.axes
    assert [bar.get_height() for bar in right.patches] == [31, 73] and [t.get_text() for t in left.get_xticklabels()] == ["step 1000", "final"]
    low, high = left.collections[0].get_segments()[0][:, 1]
    assert low == pytest.approx(.5794, abs=1e-3) and high == pytest.approx(.6398, abs=1e-3)          # Wilson's interval of 610 of 1000


def test_the_points_where_curves_break_lie_on_them():
    fig = figures.runs_side_by_side(CURVES, changes=pd.DataFrame([dict(run="second", step=7, measure="lm_loss")]))
    marks = [line for line in fig.axes[0].lines if line.get_marker() == "v"]
    assert [tuple(line.get_xydata()[0]) for line in marks] == [(7, pytest.approx(.57))]
    assert marks[0].get_markeredgecolor() == style.colours_of(["first", "second"])["second"]


def test_text_of_a_wide_figure_is_too_small():
    fig, ax = style.axes(2, width=6)
    ax[0].set(xlabel="too small on a phone")
    assert style.smallest_text(fig) < 7 <= style.smallest_text(fig, room=20)


# ---- grids

def spoilt(labels, wanted, k=3):
    "Labels with k cells changed."
    out, cells = labels.copy(), np.flatnonzero(labels != IGNORE)[:: max(1, (labels != IGNORE).sum() // k)][:k]
    out[cells] = [wanted if out[c] != wanted else wanted - 1 for c in cells]
    return out


@pytest.mark.parametrize("puzzles, says", [(patterns.make(1, seed=1), "3"), (sudoku.generate(1, givens=40), "9")], ids=["5x5", "9x9"])
def test_a_wrong_cell_shows_both_symbols_apart_and_readable(puzzles, says):
    predicted = spoilt(puzzles.labels[0], puzzles.domain.symbols.index(says))
    fig = show(puzzles.domain, puzzles.inputs, puzzles.labels, predicted[None])
    assert style.smallest_text(fig) >= 7
    fig.draw_without_rendering()
    ax, cols = fig.axes[2], puzzles.domain.shape[1]
    boxes = [(t.get_text(), t.get_window_extent()) for t in ax.texts]
    for cell in np.flatnonzero(predicted != puzzles.labels[0]):
        start = -.5 if ax.images else 0
        corners = ax.transData.transform([(cell % cols + start, cell // cols + start), (cell % cols + start + 1, cell // cols + start + 1)])
        (x0, x1), (y0, y1) = sorted(corners[:, 0]), sorted(corners[:, 1])
        inside = [(text, b) for text, b in boxes if x0 < (b.x0 + b.x1) / 2 < x1 and y0 < (b.y0 + b.y1) / 2 < y1]
        assert sorted(t for t, _ in inside) == sorted(puzzles.domain.symbols[t] for t in (predicted[cell], puzzles.labels[0][cell]))
        (_, a), (_, b) = inside
        assert a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1                # they do not cover each other


def test_every_domain_fits_a_phone():
    mazes, grid = maze.generate(1, size=12, min_path=20), arc.encode(np.arange(9).reshape(3, 3))
    for fig in (show(mazes.domain, mazes.inputs, mazes.labels, mazes.labels), show(arc.ARC, grid[None], grid[None], grid[None])):
        assert fig.get_figwidth() <= style.WIDTH and len(fig.axes) == 3
