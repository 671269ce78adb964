"Puzzle sets on disk, what bad files meet, and the published sampling rule."
import errno
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from hrm_nb import patterns
from hrm_nb.puzzles import IGNORE, Batches, PuzzleSet, data_path, epoch_batches, grid_domain, input_hashes

ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")


# ---- the published layout

@pytest.mark.parametrize("name", ["maze-30x30-hard-1k", "seed-cpu/arc-simple"])
def test_real_sets_come_back_bit_for_bit(real, name, tmp_path):
    source, copy = real(name), tmp_path / "copy"
    for split in ("train", "test"): PuzzleSet.load(source, split).save(copy, split)
    files = sorted(f.relative_to(source) for f in source.rglob("*") if f.suffix in (".npy", ".json"))
    assert len(files) == 2 * len(ARRAYS) + 3
    assert files == sorted(f.relative_to(copy) for f in copy.rglob("*") if f.is_file())
    for file in files: assert (copy / file).read_bytes() == (source / file).read_bytes(), file


def test_reading_agrees_with_the_raw_arrays(real):
    "What a set means, from the arrays alone: identifiers spread over examples, the ignored label as -100."
    for name in ("maze-30x30-hard-1k", "seed-cpu/arc-simple"):
        path = real(name) / "train"
        raw = {k: np.load(path / f"all__{k}.npy") for k in ARRAYS}
        meta, puzzles = json.loads((path / "dataset.json").read_text()), PuzzleSet.load(real(name), "train")
        np.testing.assert_array_equal(puzzles.inputs, raw["inputs"])
        ignored = raw["labels"] == meta["ignore_label_id"]
        np.testing.assert_array_equal(puzzles.labels == IGNORE, ignored)
        np.testing.assert_array_equal(puzzles.labels[~ignored], raw["labels"][~ignored])
        np.testing.assert_array_equal(puzzles.identifiers, np.repeat(raw["puzzle_identifiers"], np.diff(raw["puzzle_indices"])))


def grouped_set(seed, identifiers=7, vocab=5):
    "Up to 40 puzzles of 1 to 6 examples in groups of 1 to 5, all sizes drawn."
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, rng.integers(1, 41))
    cuts = np.flatnonzero(rng.random(len(sizes) - 1) < .4) + 1
    starts, n = np.concatenate([[0], np.cumsum(sizes)]), sizes.sum()
    ids = np.repeat(rng.integers(1, identifiers, len(sizes)), sizes)
    labels = rng.integers(0, vocab, (n, 8))
    return PuzzleSet(rng.integers(0, vocab, (n, 8)), np.where(rng.random((n, 8)) < .2, IGNORE, labels), ids, domain=grid_domain(vocab, 8),
                     puzzle_indices=starts, group_indices=np.concatenate([[0], cuts, [len(sizes)]]), tags=pd.DataFrame({"row": range(n)}))


def test_several_sets_in_one_folder(tmp_path):
    "Two named sets: read as one after the other, written as the two they were, in their types."
    a, b = grouped_set(1), grouped_set(2)
    a.save(tmp_path / "a", "train"), b.save(tmp_path / "b", "train")
    both, expected = tmp_path / "both" / "train", {}
    both.mkdir(parents=True)
    for name, folder in (("first", "a"), ("second", "b")):
        for key in ARRAYS:
            array = np.load(tmp_path / folder / "train" / f"all__{key}.npy")
            np.save(both / f"{name}__{key}.npy", array.astype("<i8" if key.endswith("indices") else "<i2"))
            expected[f"{name}__{key}.npy"] = (both / f"{name}__{key}.npy").read_bytes()
    meta = json.loads((tmp_path / "a/train/dataset.json").read_text())
    groups = len(a.group_indices) + len(b.group_indices) - 2
    meta |= dict(sets=["first", "second"], total_groups=groups, num_puzzle_identifiers=7)
    (both / "dataset.json").write_text(json.dumps(meta))

    read = PuzzleSet.load(tmp_path / "both", "train")
    for key in ("inputs", "labels", "identifiers"):
        np.testing.assert_array_equal(getattr(read, key), np.concatenate([getattr(p, key) for p in (a, b)]))
    np.testing.assert_array_equal(np.diff(read.puzzle_indices), np.concatenate([np.diff(p.puzzle_indices) for p in (a, b)]))
    np.testing.assert_array_equal(np.diff(read.group_indices), np.concatenate([np.diff(p.group_indices) for p in (a, b)]))
    read.save(tmp_path / "again", "train")
    assert {f.name: f.read_bytes() for f in (tmp_path / "again/train").glob("*.npy")} == expected
    assert (tmp_path / "again/train/dataset.json").read_bytes() == (both / "dataset.json").read_bytes()


@pytest.fixture
def two_parts(tmp_path):
    "A set of two named parts in one folder, and the set itself."
    whole = grouped_set(1)
    n = len(whole.group_indices) - 1
    named = whole.replace(metadata=dict(sets=["first", "second"], set_groups=[n // 2, n - n // 2]))
    named.save(tmp_path / "named", "train")
    return tmp_path / "named", named


@pytest.mark.parametrize("share", [.1, .3, .5, .9])
def test_halves_of_a_set_of_two_parts_can_be_saved(two_parts, tmp_path, share):
    "What is left of each part is written under its name and read back the same."
    folder, named = two_parts
    read = PuzzleSet.load(folder, "train", named.domain)
    assert read.hash == named.hash
    for k, half in enumerate(read.split(share)):
        half.save(tmp_path / f"half{k}", "train")
        back = PuzzleSet.load(tmp_path / f"half{k}", "train", named.domain)
        assert back.hash == half.hash and back.metadata["sets"] == half.metadata["sets"]
        assert sum(half.metadata.get("set_groups", [len(half.group_indices) - 1])) == len(half.group_indices) - 1
    part = named.groups([0])
    assert part.metadata["sets"] == ["first"] and "set_groups" not in part.metadata
    assert named.take([3, 1]).metadata["sets"] == ["all"]


def test_a_set_of_two_parts_without_its_bad_rows_can_be_saved(two_parts, tmp_path):
    folder, named = two_parts
    file = folder / "train/second__inputs.npy"
    array = np.load(file)
    array[0, 0] = 99
    np.save(file, array)
    with pytest.warns(UserWarning, match="dropped 1 of"): left = PuzzleSet.load(folder, "train", named.domain, bad_rows="drop")
    left.save(tmp_path / "left", "train")
    back = PuzzleSet.load(tmp_path / "left", "train", named.domain)
    assert back.hash == left.hash and len(back) == len(named) - 1 and back.metadata["sets"] == ["first", "second"]


def test_a_part_that_loses_all_its_rows_goes(two_parts, tmp_path):
    folder, named = two_parts
    file = folder / "train/first__inputs.npy"
    np.save(file, np.full_like(np.load(file), 99))
    with pytest.warns(UserWarning, match="dropped"): left = PuzzleSet.load(folder, "train", named.domain, bad_rows="drop")
    assert left.metadata["sets"] == ["second"]
    left.save(tmp_path / "left", "train")
    assert PuzzleSet.load(tmp_path / "left", "train", named.domain).hash == left.hash


def test_broken_groups_are_named_when_rows_are_dropped(two_parts):
    folder, named = two_parts
    file = folder / "train/first__group_indices.npy"
    array = np.load(file)
    array[-1] += 3
    np.save(file, array)
    with pytest.raises(ValueError, match="group_indices must rise from 0 to"): PuzzleSet.load(folder, "train", named.domain, bad_rows="drop")


def test_arrays_are_contiguous():
    "torch takes no view with negative strides; a set that was given one makes it whole."
    words = np.arange(12).reshape(3, 4)
    puzzles = PuzzleSet(words, words[:, ::-1])
    assert puzzles.labels.flags["C_CONTIGUOUS"] and torch.as_tensor(puzzles.labels).tolist() == words[:, ::-1].tolist()


def test_replace_works_out_what_follows():
    whole = grouped_set(3)
    one = whole.replace(group_indices=[0, len(whole.puzzle_indices) - 1])
    assert one.metadata["total_groups"] == 1 and one.hash != whole.hash and one.tags.equals(whole.tags)
    assert whole.replace(tags=None).hash == whole.hash
    with pytest.raises(ValueError, match="unknown argument 'grid'; allowed are inputs, labels"): whole.replace(grid=1)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_sets_round_trip(seed, tmp_path):
    puzzles = grouped_set(seed)
    puzzles.save(tmp_path, "train")
    back = PuzzleSet.load(tmp_path, "train", puzzles.domain)
    assert back.hash == puzzles.hash and back.tags.row.tolist() == puzzles.tags.row.tolist()


def test_where_data_is_found(tmp_path, monkeypatch):
    "HRM_NB_DATA before the working directory's data/ before that of the repository around it."
    (tmp_path / "settings.ini").touch()
    inner = tmp_path / "deep" / "er"
    for folder in (tmp_path / "data", inner / "data", tmp_path / "named"): (folder / "x").mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HRM_NB_DATA", str(tmp_path / "named"))
    for root in (tmp_path / "named", inner / "data", tmp_path / "data"):
        assert data_path("x").samefile(root / "x")
        (root / "x").rmdir()
    with pytest.raises(FileNotFoundError) as e: data_path("x")
    for root in (tmp_path / "named", inner / "data", tmp_path / "data"): assert str(root) in str(e.value)


# ---- bad files

@pytest.fixture
def saved(tmp_path):
    patterns.make(6, size=2).save(tmp_path / "set", "train")
    return tmp_path / "set"


def refusal(folder, naming):
    "The ValueError of loading `folder`, which must name a file."
    with pytest.raises(ValueError) as e: PuzzleSet.load(folder, "train")
    assert str(folder / naming) in str(e.value), e.value
    return str(e.value)


@pytest.mark.parametrize("key", ARRAYS)
@pytest.mark.parametrize("keep", [0, 3, 60, -1])
def test_truncated_arrays(saved, key, keep):
    file = saved / "train" / f"all__{key}.npy"
    file.write_bytes(file.read_bytes()[:keep])
    refusal(saved, f"train/{file.name}")


def test_a_pickled_array_is_refused_and_not_run(saved, tmp_path):
    ran = tmp_path / "ran"
    class Exploit:
        def __reduce__(self): return (ran.touch, ())
    np.save(saved / "train/all__labels.npy", np.array([Exploit()], object), allow_pickle=True)
    assert "could run code" in refusal(saved, "train/all__labels.npy") and not ran.exists()


def test_arrays_of_another_type(saved):
    for array in (np.zeros((6, 4)), np.array([["a"] * 4] * 6)):
        np.save(saved / "train/all__inputs.npy", array)
        assert str(array.dtype) in refusal(saved, "train/all__inputs.npy")


def test_an_absent_array(saved):
    (saved / "train/all__labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="all__labels.npy"): PuzzleSet.load(saved, "train")


@pytest.mark.parametrize("text, words", [("{", "not valid JSON"), ("", "not valid JSON"), ("[1]", "lacks pad_id"), ('{"pad_id": 0}', "lacks ignore_label_id")])
def test_a_bad_description(saved, text, words):
    (saved / "train/dataset.json").write_text(text)
    assert words in refusal(saved, "train/dataset.json")


def redescribe(saved, **changes):
    file = saved / "train/dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("changes, words", [(dict(seq_len=5), "5 tokens"), (dict(vocab_size=3), "vocabulary is 0..2"), (dict(total_groups=99), "99"),
                                            (dict(num_puzzle_identifiers=1), "allowed are 0..0"), (dict(vocab_size=0), "vocab_size is 0")])
def test_a_description_that_disagrees_with_the_arrays(saved, changes, words):
    redescribe(saved, **changes)
    assert words in refusal(saved, "train")


@pytest.mark.parametrize("key, array", [("inputs", np.ones((5, 4), int)), ("labels", np.ones((5, 4), int)), ("labels", np.ones((6, 5), int)),
                                        ("puzzle_identifiers", np.ones(5, int)), ("puzzle_identifiers", np.full(6, 9)),
                                        ("puzzle_indices", np.array([0, 2, 1, 3, 4, 5, 6])), ("puzzle_indices", np.arange(1, 8)),
                                        ("group_indices", np.arange(6)), ("group_indices", np.array([0, 6, 3])), ("group_indices", np.zeros(0, int))])
def test_arrays_that_disagree_with_each_other(saved, key, array):
    np.save(saved / f"train/all__{key}.npy", array)
    refusal(saved, "train")


@pytest.mark.parametrize("changes", [dict(sets=[]), dict(vocab_size="12"), dict(vocab_size=None), dict(num_puzzle_identifiers="3"),
                                     dict(ignore_label_id="x"), dict(pad_id=99)], ids=str)
def test_a_description_of_wrong_types_or_values(saved, changes):
    redescribe(saved, **changes)
    refusal(saved, "train")


@pytest.mark.parametrize("file, content", [("train/dataset.json", b"\xff\xfe{}"), ("identifiers.json", b"\xff"), ("train/tags.csv", b""),
                                           ("train/tags.csv", b'\xff\x00,"')])
def test_text_files_that_are_no_text(saved, file, content):
    (saved / file).write_bytes(content)
    refusal(saved, file)


@pytest.mark.parametrize("key", ARRAYS)
def test_arrays_of_another_rank(saved, key):
    for array in (np.array(3), np.zeros((2, 2, 2), int)):
        np.save(saved / f"train/all__{key}.npy", array)
        refusal(saved, "train")


# ---- writing

@pytest.mark.parametrize("arrays_before", range(5))
def test_nothing_half_written_when_the_disk_is_full(tmp_path, monkeypatch, arrays_before):
    real_save, calls = np.save, []
    def failing(*args, **kw):
        calls.append(args)
        if len(calls) > arrays_before: raise OSError(errno.ENOSPC, "No space left on device")
        return real_save(*args, **kw)
    puzzles = patterns.make(4, size=2)
    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(OSError, match="No space left"): puzzles.save(tmp_path / "set", "train")
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [] and not (tmp_path / "set/train").exists()
    monkeypatch.undo()
    puzzles.save(tmp_path / "set", "train")
    assert PuzzleSet.load(tmp_path / "set", "train", puzzles.domain).hash == puzzles.hash


def test_a_failing_write_names_the_folder(tmp_path, monkeypatch):
    def full(*args, **kw): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "set"))): patterns.make(4, size=2).save(tmp_path / "set", "train")


def test_an_existing_split_is_left_alone(saved):
    before = {f: f.read_bytes() for f in saved.rglob("*") if f.is_file()}
    with pytest.raises(FileExistsError, match="exists already"): patterns.make(6, size=2, seed=1).save(saved, "train")
    assert {f: f.read_bytes() for f in saved.rglob("*") if f.is_file()} == before


# ---- the sampling rule

@pytest.mark.parametrize("seed", range(40))
def test_an_epoch_draws_every_group_once(seed):
    """Published rule: groups in random order; of each one random puzzle; of its examples as many distinct ones as the batch has room
    for. All batches but the last are full."""
    puzzles, rng = grouped_set(seed), np.random.default_rng(1000 + seed)
    size = int(rng.integers(1, 12))
    batches = epoch_batches(puzzles, size, rng)
    assert all(len(b) == size for b in batches[:-1]) and 1 <= len(batches[-1]) <= size
    puzzle_of = np.searchsorted(puzzles.puzzle_indices, np.arange(len(puzzles)), side="right") - 1
    group_of = np.searchsorted(puzzles.group_indices, puzzle_of, side="right") - 1
    rows = np.concatenate(batches)
    assert len(set(rows.tolist())) == len(rows)                           # no example twice
    chosen = list(dict.fromkeys(puzzle_of[rows].tolist()))                # in order of drawing
    assert sorted(group_of[puzzles.puzzle_indices[chosen]].tolist()) == list(range(len(puzzles.group_indices) - 1))
    assert (puzzle_of[rows] == np.repeat(chosen, [(puzzle_of[rows] == p).sum() for p in chosen])).all()  # puzzles lie together
    room = size
    for p in chosen:                                                      # as many of its examples as the batch had room for
        took, whole = (puzzle_of[rows] == p).sum(), np.diff(puzzles.puzzle_indices)[p]
        assert took == min(room, whole), (p, took, room, whole)
        room = room - took or size


def test_choices_are_even():
    "One group of three puzzles with 1, 2 and 6 examples: each puzzle a third of the time, each example of a puzzle as often as the next."
    puzzles = PuzzleSet(np.ones((9, 2), int), np.ones((9, 2), int), puzzle_indices=[0, 1, 3, 9], group_indices=[0, 3])
    rng, n = np.random.default_rng(0), 6000
    first = np.array([epoch_batches(puzzles, 1, rng)[0][0] for _ in range(n)])
    counts = np.bincount(first, minlength=9) / n
    want = np.array([1 / 3] + [1 / 6] * 2 + [1 / 18] * 6)
    assert (np.abs(counts - want) < 4 * np.sqrt(want * (1 - want) / n)).all(), counts  # four standard errors


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_stream_is_the_epochs_laid_end_to_end(ranks, drop_last):
    "Every rank hands out its part of the global batch; seeking to any position goes on as the stream would have."
    puzzles, size = grouped_set(9), 6
    plan = []
    for epoch in range(3):
        rows = epoch_batches(puzzles, size, np.random.default_rng([4, epoch]))
        plan += [r for r in rows if len(r) == size or not drop_last]
    streams = [Batches(puzzles, size, seed=4, drop_last=drop_last, rank=r, world_size=ranks) for r in range(ranks)]
    for k, rows in enumerate(plan):
        seeker = Batches(puzzles, size, seed=4, drop_last=drop_last); seeker.seek(streams[0].state())
        whole = [torch.cat(t) for t in zip(*((b.inputs, b.labels, b.identifiers) for b in (s.next() for s in streams)))]
        sought = seeker.next()
        for a, b in zip(whole, (sought.inputs, sought.labels, sought.identifiers)): assert torch.equal(a, b), k
        n = len(rows)
        np.testing.assert_array_equal(whole[0][:n], puzzles.inputs[rows])
        np.testing.assert_array_equal(whole[1][:n], puzzles.labels[rows])
        np.testing.assert_array_equal(whole[2][:n], puzzles.identifiers[rows])
        assert (whole[0][n:] == 0).all() and (whole[1][n:] == IGNORE).all() and (whole[2][n:] == 0).all()


def test_hashes_do_not_depend_on_the_integer_type():
    grid = np.arange(12).reshape(2, 6)
    sets = [PuzzleSet(grid.astype(t), grid.astype(t)) for t in ("u1", "i2", "<i4", ">i4", "i8")]
    assert len({s.hash for s in sets}) == 1 and len({input_hashes(s).tobytes() for s in sets}) == 1


def test_a_sample_is_drawn_by_its_seed():
    whole = patterns.make(30, size=3, seed=0)
    part = whole.sample(7, seed=1)
    where = [input_hashes(whole).tolist().index(h) for h in input_hashes(part).tolist()]
    assert len(part) == 7 and where == sorted(set(where)) and (part.labels == whole.labels[where]).all()
    assert part.hash == whole.sample(7, seed=1).hash != whole.sample(7, seed=2).hash
    assert whole.sample(0, seed=1) is whole is whole.sample(30, seed=1)
    with pytest.raises(ValueError, match="-1 examples asked for; allowed are numbers from 0"): whole.sample(-1, seed=0)
