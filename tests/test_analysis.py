"Analysis and evaluation against the formulas they replace and against other libraries."
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata

from hrm_nb import patterns
from hrm_nb.analysis import breakdown, calibration, compare, compare_checkpoints, curves, halting, modal_share, steps_table, wilson, with_intervals
from hrm_nb.evaluation import Evaluation, evaluate, solve
from hrm_nb.puzzles import IGNORE
from hrm_nb.training import TrainConfig, fit


def evaluated(exact, q_halt, counted=9):
    "An evaluation that holds what the halt head's judges read."
    return Evaluation({}, pd.DataFrame(dict(exact=np.asarray(exact, bool), q_halt=q_halt, counted=counted)), np.zeros((len(exact), 9)))


def drawn(seed, n=500, slope=1.0):
    "Beliefs and outcomes that agree where the slope is 1."
    rng = np.random.default_rng(seed)
    q = rng.normal(0, 2, n)
    return rng.random(n) < 1 / (1 + np.exp(-slope * q)), q


# ---- intervals

def wilson_by_hand(k, n, confidence):
    z = norm.ppf(.5 + confidence / 2)
    p = k / n
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)


@pytest.mark.parametrize("confidence", [.5, .95, .99])
def test_wilson_is_the_formula(confidence):
    n = np.repeat([1, 2, 7, 30, 1000, 10 ** 6], 5)
    k = np.tile([0, .25, .5, .9, 1], 6) * n // 1
    np.testing.assert_allclose(wilson(k, n, confidence), wilson_by_hand(k, n, confidence), rtol=0, atol=1e-12)


def test_wilson_takes_numbers_series_and_nothing_counted():
    low, high = wilson(7, 30)
    assert low.shape == () and 0 < low < 7 / 30 < high < 1
    low, high = wilson(pd.Series([0, 3]), pd.Series([0, 3]))
    assert np.isnan([low[0], high[0]]).all() and high[1] == 1 and low[1] < 1
    assert wilson([1, 2], 4)[0].shape == (2,)


def test_wilson_never_crosses_the_share():
    n = np.arange(1, 400)
    for k in (0 * n, n // 3, n):
        low, high = wilson(k, n)
        assert (0 <= low).all() and (low <= k / n).all() and (k / n <= high).all() and (high <= 1).all()


@pytest.mark.parametrize("k", [-1, 5])
def test_wilson_refuses_impossible_counts(k):
    with pytest.raises(ValueError, match=rf"{k} successes of 4"): wilson(k, 4)


# ---- the halt head

def halting_by_hand(right, q, bins=10):
    "Rank sums and bins as they were written out before the libraries came."
    n1, n0 = right.sum(), (~right).sum()
    chance = 1 / (1 + np.exp(-q))
    which = np.minimum((chance * bins).astype(int), bins - 1)
    error = sum(abs(chance[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in np.unique(which))
    says = q >= 0
    return dict(accuracy=(says == right).mean(), constant=max(right.mean(), 1 - right.mean()), calibration_error=error,
                auroc=(rankdata(q)[right].sum() - n1 * (n1 + 1) / 2) / (n1 * n0), balanced=(says[right].mean() + (~says[~right]).mean()) / 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_halting_is_the_formula(seed, rounded):
    right, q = drawn(seed)
    if rounded: q = np.round(q)
    ours, want = halting(evaluated(right, q)), halting_by_hand(right, q)
    assert ours.keys() == want.keys()
    for name, value in want.items(): assert ours[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("bins", [1, 5, 10, 20])
def test_calibration_is_sklearns(bins):
    from sklearn.calibration import calibration_curve
    right, q = drawn(7, slope=.4)
    table = calibration(evaluated(right, q), bins)
    share, believed = calibration_curve(right, 1 / (1 + np.exp(-q)), n_bins=bins, strategy="uniform")
    np.testing.assert_allclose(table.share, share, atol=1e-12)
    np.testing.assert_allclose(table.believed, believed, atol=1e-12)
    error = (np.abs(share - believed) * table["count"]).sum() / len(q)
    assert halting(evaluated(right, q), bins)["calibration_error"] == pytest.approx(error, abs=1e-12)
    assert table["count"].sum() == len(q)


def test_an_honest_head_and_an_overconfident_one():
    honest, sure = (halting(evaluated(*drawn(3, 20_000, slope)))["calibration_error"] for slope in (1, .3))
    assert honest < .02 < .1 < sure


@pytest.mark.parametrize("right", [True, False])
def test_one_kind_of_answer_alone(right):
    found = halting(evaluated([right] * 5, np.arange(5.)))
    assert np.isnan(found["auroc"]) and np.isnan(found["balanced"]) and found["constant"] == 1


def test_values_that_are_no_numbers_have_no_auroc():
    assert np.isnan(halting(evaluated([True, False, True], [1., np.inf, 2.]))["auroc"])


def test_rows_without_a_counted_cell_are_left_out():
    right, q = drawn(1, 60)
    some = np.arange(60) % 3 > 0
    assert halting(evaluated(right, q, np.where(some, 9, 0))) == halting(evaluated(right[some], q[some]))
    with pytest.raises(ValueError, match="bins is 0"): calibration(evaluated(right, q), 0)


# ---- pairs

@pytest.mark.parametrize("seed", range(4))
def test_compare_is_mcnemars_exact_test(seed):
    from statsmodels.stats.contingency_tables import mcnemar
    rng = np.random.default_rng(seed)
    x, y = rng.random(80) < .6, rng.random(80) < .75
    found = compare(evaluated(x, 0.), evaluated(y, 0.))
    table = [[(x & y).sum(), (x & ~y).sum()], [(~x & y).sum(), (~x & ~y).sum()]]
    assert found["p"] == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)
    assert (found["only_a"], found["only_b"]) == (table[0][1], table[1][0])
    assert found["difference"] == pytest.approx((found["only_b"] - found["only_a"]) / 80)


def test_compare_refuses_different_sets():
    with pytest.raises(ValueError, match="3 and 4 examples"): compare(evaluated([1] * 3, 0.), evaluated([1] * 4, 0.))


# ---- tables

def test_breakdown_and_intervals():
    result = evaluated([1, 1, 0, 1], 0.)
    result.puzzles = result.puzzles.assign(kind=["a", "a", "b", "b"], accuracy=1., lm_loss=.5, steps=2)
    table = breakdown(result, "kind")
    assert table.share.tolist() == [1, .5] and table["count"].tolist() == [2, 2]
    np.testing.assert_allclose(table[["low", "high"]].T, wilson([2, 1], [2, 2]))
    assert with_intervals([dict(exact=1, count=2)]).share.tolist() == [.5]
    with pytest.raises(ValueError, match="no tag 'colour'"): breakdown(result, "colour")


def test_curves_leave_out_what_was_not_measured():
    table = curves(pd.DataFrame(dict(step=[1, 2, 3], train_lm_loss=[3., 2., 1.], test_lm_loss=[None, None, 1.5])), ("lm_loss", "accuracy"))
    assert table.groupby("part").value.apply(list).to_dict() == {"test": [1.5], "train": [3., 2., 1.]}
    assert list(curves(pd.DataFrame(dict(step=[1])))) == ["step", "part", "measure", "value"]


def test_modal_share_ignores_what_is_not_counted():
    assert modal_share([[1, 1, 2, 5]], [[1, 2, 3, IGNORE]]) == dict(token=1, share=2 / 3, label_share=1 / 3)


def test_steps_and_checkpoints_agree_with_evaluations(tiny_model, tmp_path):
    train, test = patterns.make(64, size=3), patterns.make(50, size=3, seed=1)
    run = fit(tiny_model(), train, test, TrainConfig(steps=20, batch_size=16, lr=5e-3, checkpoint_every=10, device="cpu"), tmp_path / "run")
    table = steps_table(run.model("final"), test, 3, batch_size=16)
    for k in (1, 2, 3):
        want = evaluate(run.model("final"), test, max_steps=k).summary
        assert table.accuracy[k - 1] == pytest.approx(want["accuracy"]) and table.exact_accuracy[k - 1] == want["exact_accuracy"]
    rows = compare_checkpoints(run, test).set_index("checkpoint")
    assert rows.step.is_monotonic_increasing and {"step_000010", "step_000020", "final"} <= set(rows.index)
    assert rows.accuracy["final"] == evaluate(run.model("final"), test).summary["accuracy"] and rows.p_against_previous.isna().sum() == 1


# ---- evaluation

@pytest.mark.parametrize("halt", ["never", "learned"])
def test_arrays_may_run_backwards_in_memory(tiny_model, halt):
    "As a set turned by a symmetry holds them; torch itself refuses them."
    model, plain, turned = tiny_model(), patterns.make(20, size=3), patterns.make(20, size=3)
    for name in ("inputs", "labels"): setattr(turned, name, np.flip(np.flip(getattr(turned, name), 1).copy(), 1))
    turned.identifiers = turned.identifiers[::-1].copy()[::-1]
    assert min(turned.labels.strides[1], turned.identifiers.strides[0]) < 0
    a, b = evaluate(model, plain, halt=halt), evaluate(model, turned, halt=halt)
    np.testing.assert_array_equal(a.predictions, b.predictions)
    assert a.summary == b.summary
    np.testing.assert_array_equal(solve(model, turned.inputs[0], int(turned.identifiers[0]), halt=halt), a.predictions[0])
    assert steps_table(model, turned, 2).equals(steps_table(model, plain, 2))


@pytest.mark.parametrize("options, words", [(dict(halt="sometimes"), "halt is 'sometimes'"), (dict(max_steps=0), "max_steps is 0"),
    (dict(batch_size=0), "batch_size is 0"), (dict(loss_type="mse"), "loss_type is 'mse'; allowed are stablemax_cross_entropy")], ids=str)
def test_options_that_mean_nothing(tiny_model, options, words):
    with pytest.raises(ValueError, match=words): evaluate(tiny_model(), patterns.make(4, size=3), **options)


@pytest.mark.parametrize("options, words", [(dict(halt="sometimes"), "halt is 'sometimes'"), (dict(max_steps=0), "max_steps is 0"),
    (dict(identifier=3), r"identifier 3, allowed are 0\.\.2")], ids=str)
def test_solve_refuses_them_too(tiny_model, options, words):
    with pytest.raises(ValueError, match=words): solve(tiny_model(), [2] * 9, **options)
