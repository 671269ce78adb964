"Copy and increment puzzles: what the making promises."
import subprocess
import sys

import numpy as np
import pytest

from hrm_nb import patterns
from hrm_nb.puzzles import IGNORE, input_hashes, overlap
from hrm_nb.recipes import recipe

VARIANTS = [dict(), dict(identified=False), dict(noise=.2), dict(size=(3, 7)), dict(frame=12), dict(wrap=False), dict(mix=(4, 1)),
            dict(colours=4, size=4), dict(patterns=("increment",))]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_train_and_test_share_no_puzzle(options):
    train, test = patterns.make(2000, seed=1, **options), patterns.make(2000, seed=2, **options)
    assert len(overlap(train, test)) == 0
    assert not set(input_hashes(train).tolist()) & set(input_hashes(test).tolist())
    assert train.hash != test.hash


def test_the_recipe_s_sets_share_no_puzzle():
    train, test = recipe("copy-increment").data.load()
    assert len(train) == 4096 and len(test) == 2000 and len(overlap(train, test)) == 0
    assert test.tags.pattern.value_counts().to_dict() == {"copy": 1000, "increment": 1000}


def test_a_shared_puzzle_would_be_seen():
    train, test = patterns.make(50, seed=1), patterns.make(50, seed=2)
    test.inputs[7] = train.inputs[31]
    assert overlap(train, test).tolist() == [7]


def test_same_seed_same_bits_in_fresh_interpreters():
    code = f"from hrm_nb import patterns\nfor v in {VARIANTS!r}: print(patterns.make(300, seed=5, **v).hash)"
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
                           env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", **_path()}).stdout.split() for seed in ("1", "2")]
    assert told[0] == told[1] and len(set(told[0])) == len(VARIANTS)
    assert told[0] == [patterns.make(300, seed=5, **v).hash for v in VARIANTS]


def _path():
    "What a fresh interpreter needs to find the same package."
    from pathlib import Path
    import hrm_nb
    return {"PYTHONPATH": str(Path(hrm_nb.__file__).parents[1])}


@pytest.mark.parametrize("colours", [2, 3, 10])
def test_increment_without_wrapping_never_wraps(colours):
    for seed in range(5):
        p = patterns.make(400, patterns=("increment",), wrap=False, colours=colours, seed=seed)
        assert (p.labels == p.inputs + 1).all() and p.labels.max() == colours + 1 and p.inputs.min() == 2
    wrapped = patterns.make(400, patterns=("increment",), colours=colours)
    first = wrapped.inputs == colours + 1                             # the last colour becomes the first
    assert (wrapped.labels[first] == 2).all() and (wrapped.labels[~first] == wrapped.inputs[~first] + 1).all()
    assert abs(first.mean() - 1 / colours) < 4 * np.sqrt((colours - 1) / first.size) / colours  # four standard errors


def ceiling(puzzles):
    "Token accuracy of the best answer that sees one cell and the identifier: the more frequent label of each."
    keys = puzzles.identifiers[:, None].astype(int) * 100 + puzzles.inputs
    best = sum(np.bincount(puzzles.labels[keys == k]).max() for k in np.unique(keys))
    return best / puzzles.labels.size


def test_ceilings():
    "Identified: all. Not identified and even: half a cell, whatever the colour. Not identified without wrapping: the last colour only copies."
    assert ceiling(patterns.make(4000)) == 1
    n = 4000 * 25
    even = ceiling(patterns.make(4000, identified=False))
    assert .5 <= even < .5 + 4 * np.sqrt(10 / n)                      # the more frequent of two equals, over ten colours
    assert abs(ceiling(patterns.make(4000, identified=False, mix=(3, 1))) - .75) < 4 * np.sqrt(10 / n)
    # wrap=False: increment cells are 1/9 each of nine colours, copy cells 1/10 of ten: 9 colours x max(1/9, 1/10)/2 + the last 1/20
    assert abs(ceiling(patterns.make(4000, identified=False, wrap=False)) - .55) < 4 * np.sqrt(10 / n)


def test_noise_disturbs_inputs_only():
    clean, noisy = patterns.make(2000, seed=3), patterns.make(2000, seed=3, noise=.25)
    np.testing.assert_array_equal(clean.labels, noisy.labels)
    hit = clean.inputs != noisy.inputs
    assert abs(hit.mean() - .25) < 4 * np.sqrt(.25 * .75 / hit.size)
    assert noisy.inputs.min() >= 2 and noisy.inputs.max() <= 11
    shift = np.bincount((noisy.inputs[hit] - clean.inputs[hit]) % 10, minlength=10)
    assert shift[0] == 0 and (np.abs(shift[1:] - hit.sum() / 9) < 5 * np.sqrt(hit.sum() / 9)).all()  # every other colour as often


def test_a_frame_holds_the_same_puzzle():
    "Bordered by end markers, padded beyond; inputs and labels of the natural size lie in its corner."
    small, framed = patterns.make(20, size=(3, 5), seed=4), patterns.make(20, size=(3, 5), seed=4, frame=8)
    for a, b, blank in ((small.inputs, framed.inputs, 0), (small.labels, framed.labels, IGNORE)):
        field = b.reshape(-1, 8, 8)
        np.testing.assert_array_equal(field[:, :3, :5], a.reshape(-1, 3, 5))
        assert (field[:, 3, :5] == 1).all() and (field[:, :3, 5] == 1).all() and (field[:, 3, 5:] == blank).all() and (field[:, 4:] == blank).all()
    assert small.identifiers.tolist() == framed.identifiers.tolist()
    assert (patterns.make(4, size=5, frame=5).inputs == patterns.make(4, size=5).inputs).all()  # a frame that just fits has no room for markers


def test_counts_follow_the_mix():
    for n in (1, 2, 3, 7, 100):
        for mix in (None, (1, 1), (2, 1), (0, 1), (1, 0), (.3, .7)):
            counts = patterns.make(n, mix=mix, size=2).tags.pattern.value_counts()
            want = n * np.array(mix or (1, 1)) / sum(mix or (1, 1))
            got = np.array([counts.get(p, 0) for p in ("copy", "increment")])
            assert got.sum() == n and (np.abs(got - want) < 1).all(), (n, mix, got)
