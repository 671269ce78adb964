"Statistics against their definitions, by simulation, and on curves whose breaks are known."
import time

import numpy as np
import pytest
from scipy.stats import binom

from hrm_nb.statistics import change_points, detectable, holm, mcnemar, paired_bootstrap, wilson


def by_definition(only_a, only_b):
    "Exact and mid-p, outcome by outcome."
    m = only_a + only_b
    chance, far = binom.pmf(range(m + 1), m, .5), np.abs(2 * np.arange(m + 1) - m)
    beyond, same = (chance[keep].sum() for keep in (far > abs(only_a - only_b), far == abs(only_a - only_b)))
    return beyond + same, beyond + same / 2


# ---- the paired test

@pytest.mark.parametrize("m", [1, 2, 5, 6, 17, 50, 101, 400])
def test_mcnemar_is_its_definition(m):
    for k in range(m + 1):
        found = mcnemar(k, m - k)
        assert tuple(found.values()) == pytest.approx(by_definition(k, m - k), rel=1e-9)
        assert 0 < found["mid_p"] < found["p"] <= 1 and found == mcnemar(m - k, k)


def test_nothing_disputed_says_nothing():
    assert mcnemar(0, 0) == dict(p=1., mid_p=1.)
    with pytest.raises(ValueError, match="counts 3 and -1"): mcnemar(3, -1)


@pytest.mark.parametrize("seed, puzzles", [(0, 1000), (1, 300), (2, 1000)])
def test_equal_checkpoints_are_rarely_called_different(seed, puzzles):
    "Each puzzle has its own difficulty; both checkpoints solve it with the same probability."
    rng = np.random.default_rng(seed)
    wrong = {"p": 0, "mid_p": 0}
    for _ in range(2000):
        chance = rng.beta(.6, .2, puzzles)
        x, y = rng.random((2, puzzles)) < chance
        for kind, value in mcnemar(int((x & ~y).sum()), int((~x & y).sum())).items(): wrong[kind] += value <= .05
    assert wrong["p"] <= .055 * 2000 and .035 * 2000 <= wrong["mid_p"] <= .065 * 2000


# ---- the interval

def test_bootstrap_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for k in range(200):
        chance = rng.beta(2, 1, 200)
        x, y = rng.random(200) < chance, rng.random(200) < np.minimum(1, chance + .05)
        low, high = paired_bootstrap(x, y, seed=k, samples=500)
        held += low <= (np.minimum(1, chance + .05) - chance).mean() <= high
    assert .9 <= held / 200 <= .99


def test_copies_of_a_puzzle_are_no_further_evidence():
    rng = np.random.default_rng(1)
    x, y = rng.random((2, 300)) < [[.6], [.7]]
    copies, of = np.repeat([x, y], 10, 1), np.repeat(np.arange(300), 10)
    shuffled = rng.permutation(3000)
    alone = paired_bootstrap(x, y, seed=3)
    assert paired_bootstrap(*copies, of, seed=3) == pytest.approx(alone)
    assert paired_bootstrap(*copies[:, shuffled], of[shuffled], seed=3) == pytest.approx(alone)
    assert np.ptp(paired_bootstrap(*copies, seed=3)) < .5 * np.ptp(alone)


def test_groups_of_unequal_size_keep_the_mean_over_examples():
    a, b = np.zeros(9), np.r_[np.ones(6), np.zeros(3)]
    low, high = paired_bootstrap(a, b, [0] * 6 + [1, 1, 2])
    assert 0 <= low < 6 / 9 < high <= 1


def test_scores_that_are_shares_are_taken_too():
    rng = np.random.default_rng(2)
    a = rng.random(400)
    low, high = paired_bootstrap(a, a + rng.normal(.1, .05, 400))
    assert .09 < low < .1 < high < .11


def test_seeds_and_nothing_to_vary():
    rng = np.random.default_rng(4)
    x, y = rng.random((2, 100))
    assert paired_bootstrap(x, y, seed=1) == paired_bootstrap(x, y, seed=1) != paired_bootstrap(x, y, seed=2)
    assert np.isnan(paired_bootstrap(x, x)).all() and np.isnan(paired_bootstrap(np.zeros(9), np.ones(9))).all()


@pytest.mark.parametrize("a, b, groups", [([1, 0], [1], None), ([], [], None), ([1, 0], [1, 0], [1])])
def test_bootstrap_refuses_what_is_not_paired(a, b, groups):
    with pytest.raises(ValueError, match="one value an example"): paired_bootstrap(a, b, groups)


def test_a_thousand_puzzles_take_less_than_a_second():
    rng = np.random.default_rng(5)
    x, y = rng.random((2, 1000)) < .7
    paired_bootstrap(x[:10], y[:10])  # imports
    start = time.process_time()
    paired_bootstrap(x, y)
    assert time.process_time() - start < 1


# ---- many at once

def test_holm_by_hand():
    assert holm([.01, .04, .03]) == pytest.approx([.03, .06, .06])
    assert holm([.5, .6]) == pytest.approx([1, 1])
    found = holm([np.nan, .02, .02])
    assert np.isnan(found[0]) and found[1:] == pytest.approx([.04, .04])
    assert len(holm([])) == 0 and np.isnan(holm([np.nan])).all()


# ---- what can be shown

def test_a_thousand_puzzles_settle_five_points_not_two():
    assert .02 < detectable(1000, .1) < .05
    assert detectable(1000, .1) == pytest.approx((1.96 + .84) * (.1 / 1000) ** .5, rel=.05)  # by large numbers


@pytest.mark.parametrize("n, discordant", [(100, .2), (1000, .1), (1000, .01), (60, .0)])
def test_detectable_is_what_simulation_finds(n, discordant):
    d, rng = detectable(n, discordant), np.random.default_rng(0)
    both = max(discordant, d)
    sets = rng.multinomial(n, [(both - d) / 2, (both + d) / 2, 1 - both], 4000)
    kinds, times = np.unique(sets[:, :2], axis=0, return_counts=True)
    found = sum(count for (a, b), count in zip(kinds, times, strict=True) if b > a and mcnemar(int(a), int(b))["p"] <= .05)
    assert found / 4000 == pytest.approx(.8, abs=.025)


def test_detectable_grows_and_shrinks_as_it_must():
    assert detectable(10_000) < detectable(1000) < detectable(100)
    assert detectable(1000, .02) < detectable(1000, .1) < detectable(1000, .5)
    assert detectable(1000, power=.5) < detectable(1000, power=.9) and detectable(1000, alpha=.1) < detectable(1000, alpha=.01)
    assert 0 < detectable(200_000, .3) < .005
    assert np.isnan(detectable(5))
    for wrong in ((0, .1), (10, -.1), (10, 1.1)):
        with pytest.raises(ValueError, match="disputed; allowed are"): detectable(*wrong)


# ---- breaks of curves

@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("breaks", [[], [40], [30, 60], [25, 45, 75]])
def test_known_breaks_are_found(seed, breaks):
    x, rng = np.arange(100.), np.random.default_rng(seed)
    slopes = np.array([0, -.1, .05, -.08])[:len(breaks) + 1]
    heights = np.r_[5, 5 + np.cumsum(slopes * np.diff([0, *breaks, 99]))]
    found = change_points(x * 10, np.interp(x, [0, *breaks, 99], heights) + rng.normal(0, .1, 100))
    assert len(found) == len(breaks)
    if breaks:
        np.testing.assert_allclose(found.x / 10, breaks, atol=6)
        np.testing.assert_allclose(found.slope_before * 10, slopes[:-1], atol=.03)
        np.testing.assert_allclose(found.slope_after * 10, slopes[1:], atol=.03)
        np.testing.assert_allclose(found.value, heights[1:-1], atol=.4)


@pytest.mark.parametrize("kind", ["white", "trend", "heavy", "neighbours"])
def test_noise_has_no_breaks(kind):
    "The last: neighbours correlate by 0.3, as two evaluations of nearly one model do."
    rng, false = np.random.default_rng(9), 0
    for _ in range(200):
        y = rng.standard_t(3, 150) if kind == "heavy" else rng.normal(size=151)
        if kind == "neighbours": y = y[1:] + .34 * y[:-1]
        if kind == "trend": y = y + .1 * np.arange(151)
        false += len(change_points(np.arange(len(y)), y)) > 0
    assert false <= (20 if kind == "neighbours" else 6)


def test_a_jump_is_a_steep_piece():
    x = np.arange(120.)
    found = change_points(x, np.where(x < 70, 0., 1.) + np.random.default_rng(0).normal(0, .02, 120))
    assert len(found) == 2 and found.x.min() < 70 < found.x.max() + 1 and np.ptp(found.x) < 12


@pytest.mark.parametrize("y", [np.zeros(50), np.arange(50.), 1e9 + np.arange(50.), np.arange(50) * 1e-9])
def test_straight_lines_without_noise_have_no_breaks(y): assert len(change_points(np.arange(50), y)) == 0


def test_scale_and_gaps_do_not_matter():
    x, rng = np.arange(200.), np.random.default_rng(3)
    y = np.interp(x, [0, 80, 199], [3, 1, .9]) + rng.normal(0, .05, 200)
    plain = change_points(x, y)
    np.testing.assert_allclose(change_points(x * 1000 + 7, y * 1e-4).x, plain.x * 1000 + 7)
    holed = y.copy()
    holed[::7] = np.nan
    np.testing.assert_allclose(change_points(x, holed).x, plain.x, atol=8)
    long = np.arange(20_000.)
    found = change_points(long, np.interp(long, [0, 8000, 19_999], [3, 1, .9]) + rng.normal(0, .05, 20_000))
    assert len(found) and abs(found.x.iloc[0] - 8000) < 400


def test_what_is_no_curve_is_refused():
    with pytest.raises(ValueError, match="does not rise"): change_points([1, 3, 2], [0, 0, 0])
    with pytest.raises(ValueError, match="two rows of one length"): change_points([1, 2], [0])
    for n in (0, 1, 10): assert list(change_points(np.arange(n), np.arange(n))) == ["x", "value", "slope_before", "slope_after"]


def test_wilson_is_also_found_where_it_was():
    from hrm_nb import analysis
    assert analysis.wilson is wilson and analysis.change_points is change_points
