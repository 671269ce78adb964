"Analysis and evaluation against the formulas they replace and against other libraries."
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata

from hrm_nb import patterns
from hrm_nb.analysis import breakdown, by_step, calibration, compare, compare_checkpoints, compare_many, curves, error_map, halting, modal_share
from hrm_nb.analysis import scores_side_by_side, steps_table, wilson, with_intervals
from hrm_nb.domains import Domain
from hrm_nb.evaluation import Evaluation, evaluate, solve
from hrm_nb.puzzles import IGNORE, PuzzleSet
from hrm_nb.statistics import detectable, mcnemar, paired_bootstrap
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


def test_sides_rows_and_predictions():
    a, b = evaluated([1, 1, 0, 0], 0.), evaluated([1, 0, 1, 0], 0.)
    a.puzzles["kind"] = b.puzzles["kind"] = list("pqrs")
    found = compare(a, b, ("old", "new"))
    assert found.puzzles.side.tolist() == ["both right", "lost", "gained", "both wrong"] and found.puzzles.kind.tolist() == list("pqrs")
    assert found.rows("lost").tolist() == [1] and found.predictions["new"] is b.predictions
    assert {"a", "b", "share_a", "share_b", "difference", "low", "high", "only_a", "only_b", "p", "mid_p", "detectable", "count"} <= set(found.summary)
    assert "**old** solves 50.0%" in found._repr_markdown_() and "one" not in found.puzzles
    with pytest.raises(ValueError, match="side is 'won'; allowed are gained"): found.rows("won")
    with pytest.raises(ValueError, match="both are called 'x'"): compare(a, b, ("x", "x"))


def test_blank_puzzles_are_no_puzzles_and_rows_keep_their_numbers():
    counted = np.array([0, 9, 9, 0, 9])
    found = compare(evaluated([0, 1, 0, 0, 0], 0., counted), evaluated([0, 1, 1, 0, 1], 0., counted))
    assert found["count"] == 3 and found["share_a"] == pytest.approx(1 / 3)
    assert found.puzzles.row.tolist() == [1, 2, 4] and found.rows("gained").tolist() == [2, 4]
    with pytest.raises(ValueError, match="no puzzle has a counted cell"): compare(evaluated([0], 0., 0), evaluated([0], 0., 0))
    with pytest.raises(ValueError, match="counted cells"): compare(evaluated([0, 1], 0., 9), evaluated([0, 1], 0., [9, 0]))


def test_summary_is_that_of_statistics():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 500)) < [[.6], [.7]]
    found = compare(evaluated(x, 0.), evaluated(y, 0.), seed=5)
    assert (found["low"], found["high"]) == paired_bootstrap(x, y, seed=5)
    assert dict(p=found["p"], mid_p=found["mid_p"]) == mcnemar(found["only_a"], found["only_b"])
    assert found["detectable"] == detectable(500, (x ^ y).mean())


def test_forms_of_one_puzzle_have_one_voice():
    "A hundred originals, ten forms each, equal models: counted form by form, chance would be called a difference far too often."
    rng, wrong, naive = np.random.default_rng(1), 0, 0
    for k in range(40):
        x, y = np.repeat(rng.random((2, 100)) < .5, 10, axis=1)
        a, b = evaluated(x, 0.), evaluated(y, 0.)
        naive += mcnemar(int((x & ~y).sum()), int((~x & y).sum()))["p"] <= .05
        a.groups = b.groups = np.repeat(np.arange(100), 10)
        found = compare(a, b, seed=k)
        wrong += found["p"] <= .05
        assert found["originals"] == 100 and found["count"] == 1000
    assert wrong <= 6 and naive > 12 and "forms of 100 originals" in found._repr_markdown_()


@pytest.mark.parametrize("change, words", [(dict(max_steps=2), "max_steps 3 and 2"), (dict(halt="learned"), "halt never and learned"),
    (dict(loss_type="softmax_cross_entropy"), "scoring .*stablemax.* and .*softmax"), (dict(seed=2), "puzzles [0-9a-f]{64} and [0-9a-f]{64}")], ids=str)
def test_evaluations_made_differently_are_not_compared(tiny_model, change, words):
    model, options = tiny_model(), dict(max_steps=3)
    a = evaluate(model, patterns.make(20, size=3, seed=1), **options)
    b = evaluate(model, patterns.make(20, size=3, seed=change.pop("seed", 1)), **(options | change))
    with pytest.raises(ValueError, match=f"first and second were evaluated differently: {words}"): compare(a, b, ("first", "second"))
    if "max_steps" in change: assert compare(a, b, may_differ=("max_steps",))["count"] == 20


def test_evaluations_say_how_they_were_made(tiny_model):
    puzzles = patterns.make(6, size=3).replace(puzzle_indices=[0, 1, 3, 4, 6], group_indices=[0, 2, 4])
    found = evaluate(tiny_model(), puzzles, max_steps=2)
    assert found.about == dict(puzzles=puzzles.hash, domain=puzzles.domain.name, examples=6, max_steps=2, halt="never",
                               scoring=dict(loss="stablemax_cross_entropy", scores=["accuracy", "exact"]))
    assert found.groups.tolist() == [0, 0, 0, 1, 1, 1] and found.tags == ["pattern"] and found.scores == ["accuracy", "exact"]
    assert evaluated([1], 0.).about == {} and compare(found, found, ("x", "y"))["originals"] == 2


def test_compare_many_corrects_for_all_pairs():
    rng = np.random.default_rng(2)
    table = compare_many({name: evaluated(rng.random(300) < share, 0.) for name, share in zip("pqrs", (.5, .5, .55, .8), strict=True)})
    assert list(zip(table.a, table.b, strict=True)) == [tuple(pair) for pair in ("pq", "pr", "ps", "qr", "qs", "rs")]
    assert (table.p_holm >= table.p).all() and table.p_holm.min() == pytest.approx(6 * table.p.min())
    with pytest.raises(ValueError, match="at least 2"): compare_many({})


# ---- tables

def test_breakdown_and_intervals():
    result = evaluated([1, 1, 0, 1], 0.)
    result.puzzles = result.puzzles.assign(kind=["a", "a", "b", "b"], accuracy=1., lm_loss=.5, steps=2)
    table = breakdown(result, "kind")
    assert table.share.tolist() == [1, .5] and table["count"].tolist() == [2, 2]
    np.testing.assert_allclose(table[["low", "high"]].T, wilson([2, 1], [2, 2]))
    assert with_intervals([dict(exact=1, count=2)]).share.tolist() == [.5]
    with pytest.raises(ValueError, match="no tag 'colour'"): breakdown(result, "colour")


def test_numbers_are_cut_into_equal_parts():
    rng = np.random.default_rng(0)
    result = evaluated(rng.random(1000) < .5, 0.)
    result.puzzles = result.puzzles.assign(clues=rng.integers(17, 60, 1000), hard=np.where(rng.random(1000) < .7, 0., rng.random(1000)),
                                           accuracy=rng.random(1000), lm_loss=.5, steps=2, level=rng.integers(0, 4, 1000))
    table = breakdown(result, "clues", bins=4)
    assert len(table) == 4 and table["count"].sum() == 1000 and table["count"].between(200, 300).all()
    assert table.clues.iloc[0].startswith("17 to ") and table.clues.iloc[-1].endswith(" to 59")
    many = breakdown(result, "hard", bins=5)
    assert many.hard.iloc[0] == "0" and many["count"].sum() == 1000 and many["count"].iloc[0] == (result.puzzles.hard == 0).sum()
    assert breakdown(result, "level").level.tolist() == [0, 1, 2, 3] and len(breakdown(result, "accuracy")) == 8
    result.puzzles.loc[:9, "clues"] = np.nan
    assert breakdown(result, "clues")["count"].sum() == 1000
    with pytest.raises(ValueError, match="bins is 1"): breakdown(result, "clues", bins=1)


def test_error_map_and_standards():
    domain = Domain("cells", tuple(".abc"), (1, 3))
    puzzles = PuzzleSet([[1, 1, 1]] * 2, [[1, 2, IGNORE], [1, 3, IGNORE]], domain=domain)
    result = Evaluation({}, pd.DataFrame(dict(counted=2, exact=[True, False], fine=[True, True])), np.array([[1, 2, 0], [1, 2, 0]]))
    share, count = error_map(result, puzzles)
    assert share[0, :2].tolist() == [0, .5] and np.isnan(share[0, 2]) and count.tolist() == [[2, 2, 0]]
    with pytest.raises(ValueError, match="allowed is the set that was evaluated"): error_map(result, puzzles.take([0]))
    assert scores_side_by_side(result).score.tolist() == ["exact"]
    table = scores_side_by_side(result, ["exact", "fine"])
    assert table.right.tolist() == [1, 2] and table.low.tolist() == pytest.approx(wilson([1, 2], 2)[0].tolist())
    with pytest.raises(ValueError, match="'counted' is no yes-or-no column; there are exact, fine"): scores_side_by_side(result, ["counted"])


def test_standards_of_mazes(tiny_model):
    from hrm_nb import maze
    from hrm_nb.model import Reasoner, ReasonerConfig
    mazes = maze.generate(6, size=6, min_path=6, seed=0)
    model = Reasoner(ReasonerConfig.hrm(vocab_size=mazes.domain.vocab_size, seq_len=36, puzzle_emb_ndim=0, hidden_size=32, num_heads=4,
                                        H_layers=1, L_layers=1, forward_dtype="float32"), seed=0)
    result = evaluate(model, mazes, max_steps=1)
    assert scores_side_by_side(result).score.tolist() == ["exact", "valid", "optimal"]
    assert not {"valid", "optimal", "exact"} & set(result.tags)


def test_by_step_is_evaluation_after_each_step(tiny_model):
    run_on = patterns.make(40, size=2, seed=3)
    from hrm_nb.model import Reasoner, ReasonerConfig
    model = Reasoner(ReasonerConfig.hrm(vocab_size=12, seq_len=4, num_puzzle_identifiers=3, puzzle_emb_ndim=0, hidden_size=32, num_heads=4,
                                        H_layers=1, L_layers=1, forward_dtype="float32"), seed=0)
    run_on = run_on.replace(labels=np.where(np.arange(4) == 0, evaluate(model, run_on, max_steps=2).predictions, IGNORE))
    exact = np.array([evaluate(model, run_on, max_steps=k).puzzles.exact for k in (1, 2, 3)]).T
    table = by_step(model, run_on, 3, batch_size=7)
    assert exact[:, 1].all() and len(table) == 40
    for row, right in zip(table.itertuples(), exact, strict=True):
        assert row.first_right == right.argmax() + 1 and row.lost == (not right[2])
        if right[2]: assert right[row.right_from - 1:].all() and not (row.right_from > 1 and right[row.right_from - 2])


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

@pytest.mark.parametrize("halt", ["never", "learned", "surest"])
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
