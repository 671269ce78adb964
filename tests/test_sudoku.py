"Sudoku over the exported package: the real set, every box shape, symmetries, bad files."
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm_nb import sudoku
from hrm_nb.puzzles import IGNORE, Batches, PuzzleSet, audit, overlap

SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "sudoku"
real = pytest.mark.skipif(not os.environ.get("HRM_NB_DATA"), reason="HRM_NB_DATA is not set: no real puzzles here")
shapes = pytest.mark.parametrize("box", sudoku.BOXES)


@pytest.fixture(scope="module", params=["train", "test"])
def hard(request):
    return sudoku.load(Path(os.environ["HRM_NB_DATA"]) / "sudoku-hard", request.param, prove=False)


@pytest.fixture(scope="module")
def made():
    return {box: sudoku.generate(30, box=box, seed=11) for box in sudoku.BOXES}


def naive_solutions(grid, box, limit):
    "Solutions by plain backtracking on a list of rows, written without the module's tables."
    (h, w), n = box, box[0] * box[1]
    grid, found = np.array(grid).reshape(n, n) - 1, []
    if any((np.bincount(g.ravel(), minlength=n + 1)[1:] > 1).any() for i in range(n)
           for g in (grid[i], grid[:, i], grid[i // h * h:i // h * h + h, i % h * w:i % h * w + w])): return found
    def free(r, c):
        b = grid[r - r % h:r - r % h + h, c - c % w:c - c % w + w]
        return set(range(1, n + 1)) - set(grid[r].tolist()) - set(grid[:, c].tolist()) - set(b.ravel().tolist())
    def go():
        blanks = [(len(free(r, c)), r, c) for r, c in zip(*np.nonzero(grid == 0))]
        if not blanks: found.append((grid + 1).ravel().tolist()); return
        _, r, c = min(blanks)
        for digit in free(r, c):
            if len(found) < limit: grid[r, c] = digit; go(); grid[r, c] = 0
    go()
    return found


# the real set

@real
def test_all_real_puzzles_are_solved_and_unique(hard):
    assert len(hard) in (1000, 5000)
    assert (sudoku.solve(hard.inputs) == hard.labels).all()  # solve raises where a puzzle has none or several


@real
def test_real_sets_load_with_tags_and_keep_the_rules(hard):
    assert {"source", "rating", "givens"} <= set(hard.tags) and hard.tags.givens.between(17, 26).all()
    assert hard.domain.problems(hard.inputs, hard.labels) == {}
    scores = hard.domain.score(hard.inputs, hard.labels, hard.labels)
    assert scores.valid.all() and scores.exact.all() and (scores.violations == 0).all()


@real
def test_real_train_and_test_share_nothing():
    sets = [sudoku.load(Path(os.environ["HRM_NB_DATA"]) / "sudoku-hard", s, prove=False) for s in ("train", "test")]
    assert audit(*sets) == []


# solving

@shapes
def test_solver_counts_as_backtracking_does(box, made):
    n, rng = box[0] * box[1], np.random.default_rng(5)
    grids = np.where(rng.random((20, n * n)) < .45, made[box].labels[:20], 1)
    grids[::4, 1] = grids[::4, 1] % n + 2
    want = [len(naive_solutions(g, box, 3)) for g in grids]
    assert len(set(want)) > 1 and sudoku.count_solutions(grids, 3, box=box).tolist() == want


def test_known_numbers_of_grids():
    assert sudoku.count_solutions(np.ones((1, 16), int), limit=1000).tolist() == [288]
    first_band = np.ones((6, 6), int); first_band[0] = range(2, 8)
    assert sudoku.count_solutions(first_band.reshape(1, 36), limit=100_000).tolist() == [28_200_960 // 720]


def test_result_does_not_depend_on_what_is_solved_beside_it(made, monkeypatch):
    grids = made[3, 3].inputs
    solved, rated = sudoku.solve(grids), sudoku.rate(grids)
    monkeypatch.setattr(sudoku, "_CHUNK", 7); monkeypatch.setattr(sudoku, "_WIDTH", 3)
    assert (sudoku.solve(grids) == solved).all() and (sudoku.rate(grids) == rated).all()
    assert sudoku.rate(grids[4:5]) == rated[4]


def test_front_of_the_search_stays_narrow(monkeypatch):
    widths, sweep = [], sudoku._sweep
    monkeypatch.setattr(sudoku, "_WIDTH", 64)
    monkeypatch.setattr(sudoku, "_sweep", lambda cells, box: widths.append(cells.shape[-1]) or sweep(cells, box))
    assert sudoku.count_solutions(np.ones((5, 81), int)).tolist() == [2] * 5 and max(widths) <= 64


def test_solve_names_the_row(made):
    p = made[3, 3]
    ambiguous, impossible = p.inputs.astype(int), p.inputs.astype(int)
    ambiguous[4, np.nonzero(ambiguous[4] > 1)[0][0]] = 1
    impossible[6, :2] = 5
    with pytest.raises(ValueError, match="row 4: ambiguous"): sudoku.solve(ambiguous)
    with pytest.raises(ValueError, match="row 6: impossible"): sudoku.solve(impossible)
    for bad, why in ((p.inputs[0], "shape"), (p.inputs * .5, "float"), (p.inputs[:, :80], "80 cells"), (p.inputs - 1, "row 0: tokens")):
        with pytest.raises(ValueError, match=why): sudoku.solve(bad)
    with pytest.raises(ValueError, match="needs 16"): sudoku.solve(p.inputs, box=(2, 2))
    assert sudoku.solve(p.inputs[:0]).shape == (0, 81) and np.issubdtype(sudoku.solve(p.inputs[:1]).dtype, np.integer)


# generating

@shapes
def test_generated_puzzles_have_one_solution_and_are_minimal(box, made):
    p = made[box]
    assert [naive_solutions(x, box, 2) for x in p.inputs[:4]] == p.labels[:4, None].tolist()
    one_less = [np.where(np.arange(len(x)) == c, 1, x) for x in p.inputs[:3] for c in np.nonzero(x > 1)[0]]
    assert (sudoku.count_solutions(one_less, box=box) == 2).all()
    assert audit(p) == [] and (p.tags.givens == (p.inputs > 1).sum(1)).all()
    assert (p.tags.rating == sudoku.rate(p.inputs, box=box)).all()


def test_same_seed_same_bits_and_other_seeds_share_nothing(made):
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    again, other = sudoku.generate(30, seed=11), sudoku.generate(30, seed=12)
    assert again.hash == made[3, 3].hash and again.tags.equals(made[3, 3].tags)
    assert len(overlap(again, other)) == 0 and audit(again, other) == []
    assert (np.random.get_state()[1] == state[0]).all() and (torch.random.get_rng_state() == state[1]).all()


def test_generator_options():
    assert (sudoku.generate(6, givens=32).tags.givens == 32).all()
    assert sudoku.generate(20, givens=(26, 40)).tags.givens.between(26, 40).all()
    assert sudoku.generate(4, rating=(2, 9)).tags.rating.between(2, 9).all()
    for bad, why in (dict(givens=16), "from 17 to 81"), (dict(givens=(30, 20)), "givens"), (dict(rating=(5, 2)), "rating"), \
                    (dict(box=(4, 4)), "allowed are"), (dict(box=(2, 2), rating=40, tries=50), "widen the ranges"):
        with pytest.raises(ValueError, match=why): sudoku.generate(1, **bad)
    with pytest.raises(ValueError, match="at least 1"): sudoku.generate(0)


# symmetries

@shapes
def test_augmented_batches_stay_sound_sudokus(box, made):
    p, source = made[box], torch.Generator().manual_seed(1)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        x, y = p.domain.augment(torch.tensor(p.inputs).to(dtype), torch.tensor(p.labels).long(), source)
        assert x.dtype == dtype and p.domain.problems(x.numpy(), y.numpy()) == {}
        assert (sudoku.solve(x.numpy(), box=box) == y.numpy()).all()  # still one solution, and it is the label
        assert ((x > 1).sum(1).numpy() == p.tags.givens).all()


@shapes
def test_symmetries_invert_and_leave_special_tokens(box, made):
    p, source = made[box], torch.Generator().manual_seed(2)
    x, y = torch.tensor(p.inputs).int(), torch.tensor(p.labels).long()
    y[:, ::3] = IGNORE; x[0], y[0] = 0, IGNORE
    turn = sudoku.draw_symmetry(len(x), box, source)
    for grid in (x, y): assert torch.equal(turn.inverse()(turn(grid)), grid) and torch.equal(turn(turn.inverse()(grid)), grid)
    assert ((turn(y) == IGNORE).sum(1) == (y == IGNORE).sum(1)).all() and (turn(x)[0] == 0).all()
    assert len({tuple(c) for c in turn.cells.tolist()}) > len(x) / 2  # each row its own


def test_symmetries_cover_the_group_evenly():
    size = sudoku.group_size((2, 2))
    turn = sudoku.draw_symmetry(60 * size, (2, 2), torch.Generator().manual_seed(3))
    telling = torch.cat([turn.cells[:, [0, 1, 2, 3, 4, 8]], turn.tokens[:, 2:5]], 1)  # these fix the rest
    _, hits = (telling * 16 ** torch.arange(9)).sum(1).unique(return_counts=True)
    chi2 = ((hits - 60.) ** 2 / 60).sum() / (size - 1)
    assert len(hits) == size and abs(chi2 - 1) < .13  # spread of an even draw: 0.026
    assert sudoku.group_size((3, 3)) == 362_880 * 6 ** 8 * 2 and sudoku.group_size((2, 3)) == sudoku.group_size((3, 2))


def test_batches_augment_on_the_fly_and_repeat(made):
    p = made[3, 3]
    first, again = [Batches(p, 16, seed=4, augment=True) for _ in range(2)]
    for _ in range(4):
        a, b = first.next(), again.next()
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)
        rows = (a.labels != IGNORE).any(1)
        assert p.domain.problems(a.inputs[rows].numpy(), a.labels[rows].numpy()) == {}
    assert not set(map(tuple, a.inputs[rows].tolist())) & set(map(tuple, p.inputs.tolist()))


# scoring and looks

def test_score_tells_how_a_prediction_fails(made):
    p = made[3, 3]
    x, y = p.inputs[0].astype(int), p.labels[0].astype(int)
    blank, given = np.nonzero(x == 1)[0][0], np.nonzero(x > 1)[0][0]
    one_off, lost = y.copy(), y.copy()
    one_off[blank], lost[given] = y[blank] % 9 + 2, 1
    renamed = np.where(y == 2, 3, np.where(y == 3, 2, y))  # a sound grid that breaks givens
    scores = p.domain.score([x] * 5, [y, one_off, lost, renamed, np.full(81, IGNORE)], np.array([y] * 5))
    assert scores.violations.tolist() == [0, 3, 3, 0, 27]
    assert scores.valid.tolist() == scores.exact.tolist() == [True] + [False] * 4
    assert scores.givens_kept[2] == 1 - 1 / (x > 1).sum() and scores.givens_kept[3] < 1 and scores.givens_kept[4] == 0
    empty = p.domain.score(np.ones((1, 81), int), [renamed], y[None])
    assert empty.valid[0] and not empty.exact[0] and empty.givens_kept[0] == 1


def test_pictures_and_text(made):
    matplotlib = pytest.importorskip("matplotlib"); matplotlib.use("Agg")
    from hrm_nb.puzzles import show
    for box, p in made.items():
        wrong = p.labels[0].copy(); wrong[:2] = wrong[1::-1]
        text = p.domain.text(wrong, reference=p.labels[0])
        n = box[0] * box[1]
        assert text.count("!") == 2 and len(text.split("\n")) == n + box[1] - 1 and text.split("\n")[0].count("|") == box[0] - 1
        ax = p.domain.draw(wrong, reference=p.labels[0], puzzle=p.inputs[0], title="t")
        assert len(ax.patches) == 2 and len(ax.texts) == n * n + 2  # a wrong cell shows both digits
        for x in (0, 1):
            seen = {t.get_text(): t.get_fontsize() for t in ax.texts if x < t.get_position()[0] < x + 1 and t.get_position()[1] < 1}
            assert set(seen) == {str(wrong[x] - 1), str(p.labels[0][x] - 1)}
            assert seen[str(wrong[x] - 1)] > seen[str(p.labels[0][x] - 1)]
        assert not p.domain.draw(wrong, reference=p.labels[0], symbols=False).texts
        assert sum(t.get_weight() == "bold" for t in ax.texts) == (p.inputs[0] > 1).sum()
        assert len(show(p.domain, p.inputs[:2], p.labels[:2], p.labels[:2]).axes) == 6
    matplotlib.pyplot.close("all")


# files

def csv_row(x, y, rating="0"):
    chars = np.array(list(" .123456789"))
    return f"me,{''.join(chars[x])},{''.join(chars[y])},{rating}"


def write(path, *rows, header="source,question,answer,rating"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def bad_rows(p):
    "Row texts, each with what its error must say."
    x, y = p.inputs[1].astype(int), p.labels[1].astype(int)
    given = np.nonzero(x > 1)[0][0]
    fewer, clash, other, swapped = x.copy(), x.copy(), y.copy(), y.copy()
    fewer[given], clash[:2] = 1, 4
    other[given] = y[given] % 9 + 2
    a, b = np.nonzero(x == 1)[0][:2]
    swapped[a] = swapped[b]
    return [(csv_row(x[:80], y), "question has 80 characters; expected 81"), (csv_row(x, y[:80]), "answer has 80 characters"),
            (csv_row(x, y).replace(".", "x"), "unknown character 'x'"), (csv_row(x, x), "unknown character"),
            (csv_row(fewer, y), "ambiguous sudoku"), (csv_row(clash, y), "impossible sudoku: the givens contradict"),
            (csv_row(x, other), f"does not keep the given {x[given] - 1} at cell {given}"), (csv_row(x, swapped), "label breaks the rules"),
            (csv_row(x, y, "hard"), "the rating is 'hard'"), ("me", "1 fields")]


@pytest.mark.parametrize("case", range(10))
def test_bad_rows_are_named_or_dropped_and_counted(case, made, tmp_path):
    p = made[3, 3]
    row, why = bad_rows(p)[case]
    good = csv_row(p.inputs[0], p.labels[0])
    path = write(tmp_path / "train.csv", good, row)
    with pytest.raises(ValueError) as e: sudoku.load_csv(path)
    assert f"{path}: row 1: " in str(e.value) and why in str(e.value)
    with pytest.warns(UserWarning, match="dropped 1 of 2 rows"): kept = sudoku.load(tmp_path, "train", bad_rows="drop")
    assert len(kept) == 1 and kept.metadata["dropped_rows"] == 1 and (kept.inputs == p.inputs[0]).all()


def test_impossible_without_a_clash_is_called_impossible(tmp_path):
    x = np.ones(81, int); x[:8] = range(2, 10); x[17] = 10  # nothing is left for cell 8
    y = sudoku.generate(1).labels[0]
    with pytest.raises(ValueError, match="row 0: impossible sudoku: no grid"): sudoku.load_csv(write(tmp_path / "a.csv", csv_row(x, y)))


def test_proof_is_optional_and_header_and_absence_are_named(made, tmp_path):
    fewer, _ = bad_rows(made[3, 3])[4]
    path = write(tmp_path / "train.csv", fewer)
    assert len(sudoku.load_csv(path, prove=False)) == 1
    path = write(tmp_path / "header.csv", fewer, header="question,answer")
    with pytest.raises(ValueError, match="header.csv: the header is 'question,answer'"): sudoku.load_csv(path)
    with pytest.raises(OSError, match="neither test/dataset.json nor test.csv"): sudoku.load(tmp_path, "test")


@shapes
def test_csv_and_npy_round_trips(box, made, tmp_path):
    p = made[box]
    sudoku.save_csv(p, tmp_path / "train.csv")
    p.save(tmp_path / "npy", "train")
    for back in (sudoku.load(tmp_path, "train", box=box), sudoku.load(tmp_path / "npy", "train", box=box)):
        assert back.hash == p.hash and back.domain == p.domain
        assert (back.tags.rating == p.tags.rating).all() and (back.tags.givens == p.tags.givens).all()
    with pytest.raises(FileExistsError): sudoku.save_csv(p, tmp_path / "train.csv")


def test_npy_sets_are_checked_by_the_rules_and_keep_their_groups(made, tmp_path):
    p = made[2, 2]
    inputs, labels = p.inputs[:6].astype(int), p.labels[:6].astype(int)
    inputs[3, np.nonzero(inputs[3] > 1)[0][0]] = 1
    labels[1] = np.roll(labels[1], 1)
    PuzzleSet(inputs, labels, domain=p.domain, group_indices=[0, 3, 6]).save(tmp_path, "train")
    with pytest.raises(ValueError, match=r"train: row 1: the label"): sudoku.load(tmp_path, "train")
    with pytest.warns(UserWarning, match="dropped 2 of 6"): kept = sudoku.load(tmp_path, "train", bad_rows="drop")
    assert kept.metadata["dropped_rows"] == 2 and kept.group_indices.tolist() == [0, 2, 4] and kept.domain.box == (2, 2)
    with pytest.raises(ValueError, match="has 81 of 11"): sudoku.load(tmp_path, "train", box=(3, 3))


def test_hub_without_a_network_says_what_to_do(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    def unreachable(*args, **kw): raise ConnectionError("no route")
    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(OSError, match="sapientinc/sudoku-extreme/test.csv.*HRM_NB_DATA.*sudoku.generate"): sudoku.hub("test")
    with pytest.raises(ValueError, match="'validation'"): sudoku.hub("validation")


def test_hub_file_is_loaded_like_any_other(monkeypatch, made, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    p, asked = made[3, 3], []
    sudoku.save_csv(p, tmp_path / "test.csv")
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, name, repo_type: asked.append((repo, name, repo_type)) or str(tmp_path / name))
    assert sudoku.hub("test").hash == p.hash and asked == [("sapientinc/sudoku-extreme", "test.csv", "dataset")]


def test_committed_sample_is_what_the_generator_makes(tmp_path):
    assert sum(f.stat().st_size for f in SAMPLE.rglob("*") if f.is_file()) < 100_000
    sudoku.make_sample(tmp_path)
    for size in ("9x9", "4x4"):
        for split in ("train", "test"):
            kept, fresh = [sudoku.load(root / size, split) for root in (SAMPLE, tmp_path)]
            assert kept.hash == fresh.hash and kept.tags.equals(fresh.tags)


def test_import_is_light():
    code = "import sys, hrm_nb.sudoku; print([m for m in ('matplotlib', 'scipy', 'psutil', 'huggingface_hub', 'fastcore') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
