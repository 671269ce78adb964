"""Mazes: the published set, the solver, the score, the generator, the symmetries and what bad input meets."""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from hrm_nb import maze
from hrm_nb.puzzles import IGNORE, Batches, PuzzleSet, input_hashes

SAMPLES = Path(__file__).parent.parent / "data" / "samples" / "maze"
real_data = pytest.mark.skipif(not os.environ.get("HRM_NB_DATA"), reason="HRM_NB_DATA is not set: no real Maze-Hard here")


def real(split): return maze.load(Path(os.environ["HRM_NB_DATA"]) / "maze-30x30-hard-1k", split)


@pytest.fixture(scope="module")
def made(): return maze.generate(400, seed=11)


# ---- the published set

@real_data
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_real_label_is_the_rules_path(split):
    puzzles = real(split)
    assert len(puzzles) == 1000 and puzzles.domain.shape == (30, 30)
    np.testing.assert_array_equal(maze.solve(puzzles.inputs), puzzles.labels)


@real_data
def test_real_shortest_paths_are_many():
    ways = np.concatenate([maze.count_shortest_paths(real(split).inputs) for split in ("train", "test")])
    assert ways.min() > 1 and 3.5e6 < np.median(ways) < 4.1e6


@real_data
def test_real_set_is_saved_bit_for_bit(tmp_path):
    real("test").save(tmp_path, "test")
    source = Path(os.environ["HRM_NB_DATA"]) / "maze-30x30-hard-1k" / "test"
    for file in source.glob("*.npy"): assert (tmp_path / "test" / file.name).read_bytes() == file.read_bytes(), file.name
    assert json.loads((tmp_path / "test" / "dataset.json").read_text()) == json.loads((source / "dataset.json").read_text())


@real_data
def test_carried_labels_break_the_rule_in_all_but_one_flip():
    puzzles = real("train")
    same = [(maze.dihedral(puzzles.labels, k) == maze.solve(maze.dihedral(puzzles.inputs, k))).all(1).mean() for k in range(8)]
    assert same[0] == 1 and .9 < same[4] < .96 and max(same[:4][1:] + same[5:]) < .01


@real_data
@pytest.mark.parametrize("split", ["train", "test"])
def test_generator_matches_the_real_mazes(made, split):
    puzzles = real(split)
    want = maze.describe(puzzles.inputs, puzzles.labels)
    for measure in ("walls", "path", "straight"):  # .115: one in a thousand for samples of 400 and 1,000 of one distribution
        assert ks_2samp(made.tags[measure], want[measure].round(4)).statistic < .115, measure


# ---- solver

def queue_distances(grid, shape):
    "Steps from S, by a plain breadth-first search."
    walls, dist = (grid.reshape(shape) == maze.WALL), np.full(shape, -1)
    level, step = [tuple(np.argwhere(grid.reshape(shape) == maze.START)[0])], 0
    while level:
        for cell in level: dist[cell] = step
        near = {(y + dy, x + dx) for y, x in level for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))}
        level = [c for c in near if 0 <= c[0] < shape[0] and 0 <= c[1] < shape[1] and not walls[c] and dist[c] < 0]
        step += 1
    return dist.ravel()


@pytest.mark.parametrize("shape", [(1, 9), (2, 2), (5, 8), (13, 4)])
@pytest.mark.parametrize("n", [1, 8, 21])
def test_distances_agree_with_a_queue(shape, n):
    rng = np.random.default_rng(n)
    grids = rng.choice([maze.WALL, maze.FREE], (n, shape[0] * shape[1]), p=[.3, .7])
    grids[np.arange(n), rng.integers(0, grids.shape[1], n)] = maze.START
    np.testing.assert_array_equal(maze.distances(grids, shape), [queue_distances(g, shape) for g in grids])


def test_solve_prefers_down_left_right_up():
    for question, answer in (("S \n G", "S \noG"), ("G \n S", "G \noS"), (" G\nS ", " G\nSo"), (" S\nG ", " S\nGo")):
        assert maze.domain(2).text(maze.solve(maze.parse(question)[None])[0]) == answer


def test_more_mazes_than_one_chunk():
    easy = maze.load(SAMPLES / "easy-10x10", "train")
    many = np.tile(easy.inputs, (60, 1))
    assert len(many) > maze._CHUNK
    np.testing.assert_array_equal(maze.solve(many), np.tile(easy.labels, (60, 1)))


@pytest.mark.parametrize("text,why", [("S  \n   \n  #", "row 1: the maze has 0 G"), ("G  \n   \n   ", "row 1: the maze has 0 S"),
                                      ("S S\n   \n  G", "row 1: the maze has 2 S"), ("S#G\n # \n ##", "row 1: the maze has no path"),
                                      ("So \n   \n  G", "row 1: the maze holds symbol 5 at cell 1")])
def test_impossible_mazes_are_named(text, why):
    for work in (maze.solve, maze.count_shortest_paths):
        with pytest.raises(ValueError, match=why): work(np.stack([maze.parse("S  \n   \n  G"), maze.parse(text)]))


def test_no_mazes_are_no_trouble():
    none = np.zeros((0, 25), np.uint8)
    assert maze.solve(none).shape == maze.distances(none).shape == (0, 25) and len(maze.count_shortest_paths(none)) == 0
    assert list(maze.score(none, none, none).columns) == ["accuracy", "exact", "valid", "optimal"]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="6 cells do not fill a grid of 2 x 2"): maze.solve(maze.parse("S  \n  G")[None])
    with pytest.raises(ValueError, match="float64"): maze.solve(np.ones((1, 4)))
    with pytest.raises(ValueError, match="differ in shape"): maze.score(np.ones((2, 4), int), np.ones((1, 4), int), np.ones((2, 4), int))


def test_counting_by_hand():
    assert maze.count_shortest_paths(maze.parse("S  \n   \n  G")[None]).tolist() == [6]
    assert maze.count_shortest_paths(maze.parse("S  \n # \n  G")[None]).tolist() == [2]
    assert maze.count_shortest_paths(maze.parse("SG")[None], (1, 2)).tolist() == [1]


# ---- score

FIELD = "S    \n     \n    G"


@pytest.mark.parametrize("drawn,valid,optimal,exact", [
    ("S    \no    \nooooG", True, True, True),     # the label
    ("Soo  \n  o  \n  ooG", True, True, False),    # another shortest path
    ("S ooo\no o o\nooo G", True, False, False),   # longer
    ("S   o\no    \nooooG", False, False, False),  # stray cell
    ("So   \no    \nooooG", False, False, False),  # branch at S
    ("S    \no o  \nooooG", False, False, False),  # branch on the way
    ("S    \no    \noo oG", False, False, False),  # gap
    ("S    \no  # \nooooG", False, False, False),  # a wall where none is
    ("S    \no ?  \nooooG", False, False, False),  # a pad
    ("S    \no S  \nooooG", False, False, False),  # a second S
    ("     \no    \nooooG", False, False, False),  # no S
    ("o    \no    \nooooG", False, False, False),  # a path cell for S
    ("So   \noo   \n oooG", False, False, False),  # touches itself
    ("S    \n     \n    G", False, False, False),  # nothing drawn
])
def test_score_by_hand(drawn, valid, optimal, exact):
    question, prediction = maze.parse(FIELD)[None], maze.parse(drawn)[None]
    row = maze.score(question, prediction, maze.solve(question, (3, 5)), (3, 5)).iloc[0]
    assert (row.valid, row.optimal, row.exact) == (valid, optimal, exact)
    assert row.accuracy == (prediction == maze.solve(question, (3, 5))).mean()


def test_score_refuses_a_removed_wall_and_a_separate_loop():
    question = maze.parse("S#G  \n     \n     \n     \n     ")[None]
    for drawn in ("SoG  \n     \n     \n     \n     ", "S#G  \nooo  \n  ooo\n  o o\n  ooo", "S#G  \nooo  \n     \n ooo \n ooo "):
        assert not maze.score(question, maze.parse(drawn)[None], maze.solve(question)).valid[0]
    loop = maze.parse("S#G  \nooo  \n     \n     \n     ")
    assert maze.score(question, loop[None], maze.solve(question)).exact[0]
    loop = loop.reshape(5, 5).copy(); beside = maze.parse("SG   \n     \n  ooo\n  o o\n  ooo")[None]  # every degree right, not one piece
    assert not maze.score(maze.parse("SG   \n     \n     \n     \n     ")[None], beside, beside).valid[0]


def test_score_counts_only_counted_cells(made):
    labels = made.labels[:4].copy(); labels[:, ::2] = IGNORE; labels[3] = IGNORE
    wrong = made.labels[:4].copy(); wrong[:, ::2] = maze.PAD
    table = made.domain.score(made.inputs[:4], wrong, labels)
    assert table.exact.tolist() == [True, True, True, False] and not table.valid.any() and np.isnan(table.accuracy[3])


def test_every_label_made_is_exact_and_optimal(made):
    assert made.domain.score(made.inputs, made.labels, made.labels)[["exact", "valid", "optimal"]].all(axis=None)


# ---- generator

def test_generated_mazes_keep_their_promise(made):
    assert made.domain.problems(made.inputs, made.labels) == {} and len(set(input_hashes(made).tolist())) == len(made)
    assert made.tags.path.min() >= 110 and (made.tags.path == (made.labels >= maze.START).sum(1)).all()
    assert .25 < made.tags.walls.min() < made.tags.walls.max() < .5


def test_same_seed_same_bits():
    options = dict(size=14, min_path=40)
    some = maze.generate(20, seed=5, **options)
    assert some.hash == maze.generate(20, seed=5, **options).hash != maze.generate(20, seed=6, **options).hash
    np.testing.assert_array_equal(maze.generate(200, seed=5, **options).inputs[:20], some.inputs)


def test_samples_are_what_their_readme_says():
    easy = maze.generate(100, size=10, min_path=20, seed=2026)
    parts = [maze.load(SAMPLES / "easy-10x10", split) for split in ("train", "test")]
    np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), easy.inputs)
    for split, n in (("train", 40), ("test", 20)):
        hard = maze.load(SAMPLES / "hard-30x30", split)
        assert len(hard) == n and hard.tags.path.min() >= 110
        np.testing.assert_array_equal(maze.solve(hard.inputs), hard.labels)


@pytest.mark.parametrize("options,why", [(dict(size=10), "min_path 2..73"), (dict(size=1, min_path=2), "size from 2"), (dict(n=0), "n from 1"),
                                         (dict(size=6, min_path=27), "no maze of size 6 with a shortest path of 27 cells"),
                                         (dict(min_path=300), "in 16,384 tries, the longest had 1")])
def test_impossible_demands(options, why):
    with pytest.raises(ValueError, match=why): maze.generate(**{"n": 1, **options})


@pytest.mark.parametrize("size", [2, 3, 11, 37])
def test_any_size(size):
    puzzles = maze.generate(9, size=size, min_path=max(2, size), seed=1)
    assert puzzles.inputs.shape == (9, size * size) and puzzles.tags.path.min() >= size


# ---- symmetries

def test_dihedral_group():
    cells = np.arange(12)
    for shape in ((3, 4), (4, 3)):
        for k in range(8):
            turned = shape if k in maze.symmetries((3, 4)) else shape[::-1]
            np.testing.assert_array_equal(maze.dihedral(maze.dihedral(cells, k, shape), maze.INVERSES[k], turned), cells)
    square = np.arange(9)
    images = [maze.dihedral(square, k).tolist() for k in range(8)]
    assert len({tuple(i) for i in images}) == 8
    for k in range(8):
        for j in range(8): assert maze.dihedral(images[k], j).tolist() in images  # closed
    np.testing.assert_array_equal(maze.dihedral(square, 1).reshape(3, 3), np.rot90(square.reshape(3, 3)))
    with pytest.raises(ValueError, match="allowed are 0..7"): maze.dihedral(square, 8)


@pytest.mark.parametrize("kind", ["carried", "solved"])
def test_augmented_sets(made, kind):
    ten = made.take(range(10))
    eight = maze.augmented(ten, kind)
    assert len(eight) == 80 and eight.group_indices.tolist() == list(range(0, 81, 8)) and eight.hash != ten.hash
    assert eight.domain.problems(eight.inputs, eight.labels) == {} and (eight.tags.path.to_numpy() == np.repeat(ten.tags.path, 8)).all()
    agree = (maze.solve(eight.inputs) == eight.labels).all(1)
    assert agree.all() if kind == "solved" else agree.mean() < .5
    assert eight.domain.score(eight.inputs, maze.solve(eight.inputs), eight.labels).optimal.all()
    assert Batches(eight, 10).steps_per_epoch == 1
    with pytest.raises(ValueError, match="'carried' and 'solved'"): maze.augmented(ten, "both")


def test_augmented_keeps_groups_of_several_examples():
    easy = maze.load(SAMPLES / "easy-10x10", "test")
    pairs = PuzzleSet(easy.inputs, easy.labels, domain=easy.domain, puzzle_indices=range(0, 21, 2), group_indices=[0, 4, 10])
    assert maze.augmented(pairs).group_indices.tolist() == [0, 64, 160]


@pytest.mark.parametrize("shape", [(6, 6), (4, 9)])
def test_augment_in_a_batch(shape):
    rng = np.random.default_rng(0)
    xb = torch.from_numpy(rng.integers(1, 5, (200, 36)))
    yb = xb + 10
    domain = maze.domain(shape)
    x, y = domain.augment(xb, yb, torch.Generator().manual_seed(3))
    assert torch.equal(x + 10, y)  # input and label turned alike
    allowed = [maze.dihedral(xb.numpy(), k, shape) for k in maze.symmetries(shape)]
    hits = np.stack([(a == x.numpy()).all(1) for a in allowed])
    assert hits.any(0).all() and (hits.sum(1) > 0).all()  # each row a symmetry, each symmetry drawn
    assert torch.equal(domain.augment(xb, yb, torch.Generator().manual_seed(3))[0], x)


# ---- files and looks

HEADER, GOOD = "source,question,answer,rating", "me,S # G ,So#oGo,1"


def csv(folder, *rows, header=HEADER, name="train.csv"):
    (folder / name).write_text("\n".join([header, *rows]))
    return folder / name


@pytest.mark.parametrize("row,why", [("me,S # G,So#oGo,1", "the question has 5 characters"), ("me,Sx# G ,So#oGo,1", "unknown character 'x'"),
                                     ("me,So# G ,So#oGo,1", "unknown character 'o'"), ("me,S # G ,So#oGo.,1", "the answer has 7 characters"),
                                     ("me,  # G ,  #oGo,1", "the maze has 0 S"), ("me,SS# G ,SS#oGo,1", "the maze has 2 S"),
                                     ("me,S ##G ,S ##G ,1", "the maze has no path"), ("me,S # G ,S##oGo,1", "the label changes cell 1"),
                                     ("me,S # G ,S # G ,1", "does not draw one simple path"), ("me,S # G ", "has 2 fields")])
def test_bad_csv_rows(tmp_path, row, why):
    path = csv(tmp_path, GOOD, row, GOOD)
    with pytest.raises(ValueError, match=f"train.csv: row 1: .*({why})"): maze.load_csv(path, size=(3, 2))
    with pytest.warns(UserWarning, match="dropped 1 of"): kept = maze.load(tmp_path, "train", size=(3, 2), bad_rows="drop")
    assert len(kept) == 2 and kept.metadata["dropped_rows"] == 1


def test_csv_and_npy_hold_the_same(tmp_path):
    easy = maze.load(SAMPLES / "easy-10x10", "test")
    text = lambda grid: easy.domain.text(grid).replace("\n", "")
    csv(tmp_path, *[f"made,{text(q)},{text(a)},2.5" for q, a in zip(easy.inputs, easy.labels)], name="test.csv")
    read = maze.load(tmp_path, "test", size=10)
    np.testing.assert_array_equal(read.inputs, easy.inputs); np.testing.assert_array_equal(read.labels, easy.labels)
    assert read.tags.rating.tolist() == [2.5] * 20 and read.metadata["dtypes"]["inputs"] == "|u1"


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="train.csv: the header is"): maze.load_csv(csv(tmp_path, GOOD, header="question,answer"), size=(3, 2))
    with pytest.raises(FileNotFoundError, match="neither test/dataset.json nor test.csv"): maze.load(tmp_path, "test")
    PuzzleSet([[1, 2, 3, 4]], [[1, 2, 3, 4]]).save(tmp_path / "other", "train")
    with pytest.raises(ValueError, match="5 symbols; a maze set has 6"): maze.load(tmp_path / "other", "train")


def test_bad_rows_of_an_npy_set(tmp_path):
    easy = maze.load(SAMPLES / "easy-10x10", "test")
    easy.inputs[3][easy.inputs[3] == maze.GOAL] = maze.FREE
    easy.save(tmp_path, "test")
    with pytest.raises(ValueError, match="test: row 3: the maze has 0 G"): maze.load(tmp_path, "test")
    with pytest.warns(UserWarning, match="dropped 1 of 20 rows, the first row 3"): kept = maze.load(tmp_path, "test", bad_rows="drop")
    assert len(kept) == 19 and kept.metadata["dropped_rows"] == 1


def test_hub(tmp_path, monkeypatch):
    def offline(*args, **kwargs): raise ConnectionError("no network")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=offline))
    with pytest.raises(OSError, match="maze-30x30-hard-1k/train.csv.*HRM_NB_DATA.*maze.generate"): maze.hub("train")
    with pytest.raises(ValueError, match="allowed are 'train' and 'test'"): maze.hub("valid")
    hard, asked = maze.load(SAMPLES / "hard-30x30", "test"), []
    text = lambda grid: hard.domain.text(grid).replace("\n", "")
    path = csv(tmp_path, *[f"made,{text(q)},{text(a)},1" for q, a in zip(hard.inputs, hard.labels)])
    def download(*args, **kwargs): asked.append((args, kwargs)); return str(path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    np.testing.assert_array_equal(maze.hub("train").inputs, hard.inputs)
    assert asked == [(("sapientinc/maze-30x30-hard-1k", "train.csv"), {"repo_type": "dataset"})]


def test_text_and_drawing():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    domain, label = maze.domain((3, 5)), maze.parse("S    \no    \nooooG")
    assert domain.text(label) == "S    \no    \nooooG"
    assert maze.domain(1).text([IGNORE]) == "." and "!" in domain.text(label, np.roll(label, 1))
    assert not domain.draw(label, reference=label).collections[0].get_paths()  # nothing wrong, no marks
    plt.close("all")


def test_a_wrong_prediction_shows_both_symbols():
    "Every cell keeps the predicted symbol's colour; a wrong one holds a mark of its kind, the right symbol's colour in its middle."
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb
    domain, label, prediction = maze.domain((3, 5)), maze.parse("S    \no    \nooooG"), maze.parse("So   \no  # \no ooo")
    ax = domain.draw(prediction, reference=label)
    assert ax.get_xlabel() == "missing 1, stray 1, other 2"
    cells = ax.images[0].get_array().reshape(-1, 3)
    np.testing.assert_allclose(cells, [to_rgb(domain.palette[token]) for token in prediction])
    marks = {}  # cell -> (size, colour) of its patches, the largest first
    for group in ax.collections:
        colours = np.resize(group.get_facecolor()[:, :3], (len(group.get_paths()), 3)) if group.get_paths() else []
        for path, colour in zip(group.get_paths(), colours):
            box = path.get_extents()
            x, y = np.round((box.p0 + box.p1) / 2).astype(int)
            marks.setdefault((y, x), []).append((box.width, tuple(colour)))
    right = {(0, 1): maze.FREE, (1, 3): maze.FREE, (2, 1): maze.PATH, (2, 4): maze.GOAL}
    assert marks.keys() == right.keys()
    for cell, (outer, inner) in marks.items():
        assert inner[0] < outer[0] <= 1.1
        np.testing.assert_allclose(inner[1], to_rgb(domain.palette[right[cell]]))
    stray, wall, missing, goal = [marks[cell][0][1] for cell in right]
    assert len({stray, wall, missing}) == 3 and wall == goal
    assert [text.get_text() for text in ax.texts] == ["S", "G"]  # the right ends stay legible
    plt.close("all")


def test_uncounted_cells_get_no_mark():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    label = maze.parse("S    \no    \nooooG").astype(np.int16)
    label[1] = IGNORE
    ax = maze.domain((3, 5)).draw(maze.parse("So   \no    \nooooG"), reference=label)
    assert ax.get_xlabel() == "missing 0, stray 0, other 0"
    plt.close("all")


@pytest.mark.parametrize("size", [0, (3,), (2, 0)])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="each at least 1"): maze.domain(size)
