"Thinking more at test time: attempts, turnings and starts, ways to choose that can fail, costs, bad input."
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hrm_nb import arc, maze, patterns, sudoku
from hrm_nb.evaluation import evaluate
from hrm_nb.puzzles import IGNORE
from hrm_nb.thinking import WAYS, accuracy_by_passes, attempt, choose_answers, judged, scored, starting_states, think_more, turnings


class Fake:
    "A reasoner whose answers and halting values are a function of (step from 1, start, inputs)."
    device = torch.device("cpu")

    def __init__(self, puzzles, says, starts=1, halt_max_steps=4):
        S = puzzles.domain.seq_len
        self.says = says
        self.config = SimpleNamespace(vocab_size=puzzles.domain.vocab_size, seq_len=S, num_puzzle_identifiers=1, puzzle_emb_ndim=0, starts=starts,
                                      halt_max_steps=halt_max_steps, no_ACT_continue=True, reads=lambda n: n == S)

    def initial_states(self, B, S, start=0):
        z = torch.zeros(B, S, 3)
        z[..., 2] = start
        return z, torch.zeros(B, S, 1)

    def levels(self): return None
    def puzzle_rows(self, identifiers): return None
    def embed(self, inputs, rows): return inputs.float()

    def think(self, z_H, z_L, x, levels):
        z_H = z_H.clone()
        z_H[..., 0] += 1
        z_H[..., 1] = x
        return z_H, z_L

    def read(self, z_H):
        step, start, inputs = int(z_H[0, 0, 0]), round(float(z_H[0, 0, 2])), z_H[..., 1].long().numpy()
        tokens, q = self.says(step, start, inputs)
        logits = torch.nn.functional.one_hot(torch.as_tensor(np.asarray(tokens)).long(), self.config.vocab_size).float()
        q = torch.as_tensor(np.broadcast_to(q, len(inputs)).copy()).float()
        return logits, torch.stack([q, -q], 1)


def solved(inputs): return sudoku.solve(inputs.astype(np.uint8)).astype(np.int64)


def spoilt(answers, cell=0):
    "Answers with one cell wrong."
    answers = answers.copy()
    answers[:, cell] = 2 + (answers[:, cell] - 1) % 4
    return answers


@pytest.fixture(scope="module")
def puzzles(): return sudoku.generate(12, box=(2, 2), seed=5)


def fake(puzzles, right, q=lambda step, start: 0., wrong_cell=lambda step, start: 0, **options):
    "Right where `right(step, start)` says so, else one cell wrong."
    def says(step, start, inputs):
        answers = solved(inputs)
        return (answers if right(step, start) else spoilt(answers, wrong_cell(step, start))), q(step, start)
    return Fake(puzzles, says, **options)


def share(model, puzzles, **options): return think_more(model, puzzles, **options).summary["exact_accuracy"]


def test_the_right_answer_comes_with_the_third_step(puzzles):
    model = fake(puzzles, lambda step, start: step >= 3)
    assert [share(model, puzzles, steps=k, choose="last") for k in (1, 2, 3, 6)] == [0, 0, 1, 1]
    assert share(model, puzzles, choose="last") == 1  # four steps, as configured
    result = think_more(model, puzzles, steps=6, choose="last")
    assert (result.puzzles.passes == 6).all() and (result.puzzles.steps == 6).all() and (result.puzzles.attempt == 0).all()


def test_the_largest_halting_value_is_followed_where_it_is_right_and_where_it_is_wrong(puzzles):
    knows = fake(puzzles, lambda step, start: step == 2, q=lambda step, start: float(step == 2))
    assert share(knows, puzzles) == 1 and share(knows, puzzles, choose="last") == 0
    errs = fake(puzzles, lambda step, start: step != 2, q=lambda step, start: float(step == 2))
    assert share(errs, puzzles) == 0 and share(errs, puzzles, choose="last") == 1
    assert (think_more(errs, puzzles).puzzles.steps == 2).all()


def test_stopping_costs_what_it_took_and_goes_wrong_with_the_head(puzzles):
    early = fake(puzzles, lambda step, start: step >= 3, q=lambda step, start: step - 1.5)
    result = think_more(early, puzzles, choose="stop")
    assert result.summary["exact_accuracy"] == 0 and (result.puzzles.passes == 2).all()
    late = fake(puzzles, lambda step, start: step >= 3, q=lambda step, start: step - 2.5)
    result = think_more(late, puzzles, choose="stop")
    assert result.summary["exact_accuracy"] == 1 and result.summary["passes"] == 3
    never = think_more(fake(puzzles, lambda *_: True, q=lambda *_: -1.), puzzles, choose="stop")
    assert (never.puzzles.steps == 4).all() and (never.puzzles.passes == 4).all()


def test_a_vote_follows_the_many(puzzles):
    two_of_three = fake(puzzles, lambda step, start: step > 1)
    assert share(two_of_three, puzzles, steps=3, choose="vote") == 1
    one_of_three = fake(puzzles, lambda step, start: step == 3, q=lambda step, start: 9. * (step == 3))
    assert share(one_of_three, puzzles, steps=3, choose="vote") == 0 and share(one_of_three, puzzles, steps=3) == 1
    assert share(one_of_three, puzzles, steps=2, choose="vote") == 0
    tie = fake(puzzles, lambda step, start: step == 2, q=lambda step, start: float(step))
    assert share(tie, puzzles, steps=2, choose="vote") == 1  # one each: the one believed in


def test_cells_can_be_right_where_no_answer_is_and_wrong_where_one_is(puzzles):
    each_elsewhere = fake(puzzles, lambda *_: False, wrong_cell=lambda step, start: step)
    assert share(each_elsewhere, puzzles, steps=3, choose="cells") == 1 and share(each_elsewhere, puzzles, steps=3, choose="vote") == 0
    result = think_more(each_elsewhere, puzzles, steps=3, choose="cells")
    assert result.puzzles.attempt.isna().all() and result.puzzles.q_halt.isna().all() and (result.puzzles.passes == 3).all()
    mostly_wrong = fake(puzzles, lambda step, start: step == 1)
    assert share(mostly_wrong, puzzles, steps=3, choose="cells") == 0


def test_the_verifier_takes_the_first_it_accepts_and_pays_up_to_there(puzzles):
    model = fake(puzzles, lambda step, start: (start, step) == (2, 2), q=lambda step, start: -step, starts=3)
    result = think_more(model, puzzles, starts=3, choose="verifier")
    assert result.summary["exact_accuracy"] == 1 and (result.puzzles.start == 2).all() and (result.puzzles.steps == 2).all()
    assert (result.puzzles.passes == 2 * 4 + 2).all()
    assert all(share(model, puzzles, starts=3, choose=way) == 0 for way in ("halt", "vote", "stop"))
    none = think_more(fake(puzzles, lambda *_: False), puzzles, choose="verifier")
    assert none.summary["exact_accuracy"] == 0 and (none.puzzles.passes == 4).all()


def test_where_nothing_is_accepted_the_fewest_broken_cells_win(puzzles):
    def says(step, start, inputs):
        answers = solved(inputs)
        return (np.full_like(answers, 2) if step != 3 else spoilt(answers)), 9. * (step == 1)
    assert (think_more(Fake(puzzles, says), puzzles, choose="verifier").puzzles.steps == 3).all()


def test_a_models_own_starts_are_used_before_noise(puzzles):
    model = fake(puzzles, lambda step, start: start == 1, q=lambda step, start: float(start), starts=2)
    assert share(model, puzzles, starts=1) == 0 and share(model, puzzles, starts=2) == 1
    first, second, third = starting_states(model, 16, 3, noise=.1)
    assert torch.equal(second[0], model.initial_states(1, 16, start=1)[0]) and third[0].shape == first[0].shape
    with pytest.raises(ValueError, match="starts is 3 and noise 0"): think_more(model, puzzles, starts=3)


def test_sudokus_come_back_right_from_every_symmetry(puzzles):
    tried = attempt(fake(puzzles, lambda *_: True), puzzles, symmetries=20)
    assert (tried.answers == puzzles.labels[:, None, None]).all()
    assert tried.symmetry.tolist() == list(range(20)) and set(tried.start) == {0}


def test_a_model_that_needs_a_turned_puzzle_gets_it(puzzles):
    def says(step, start, inputs):
        answers = solved(inputs)
        good = inputs[:, 0] > 1                       # only where a digit stands in the corner
        return np.where(good[:, None], answers, spoilt(answers)), good.astype(float)
    plain, more = (share(Fake(puzzles, says), puzzles, symmetries=n) for n in (1, 40))
    assert plain < 1 == more


def test_mazes_come_back_optimal_from_every_turn_and_exact_where_no_tie_is():
    mazes = maze.generate(30, size=8, min_path=10, seed=3)
    model = Fake(mazes, lambda step, start, inputs: (maze.solve(inputs.astype(np.uint8)), 0.))
    tried = attempt(model, mazes, steps=1, symmetries=8)
    every = [mazes.domain.score(mazes.inputs, tried.answers[:, a, 0], mazes.labels) for a in range(8)]
    assert all(scores.optimal.all() for scores in every) and every[0].exact.all()
    unique = maze.count_shortest_paths(mazes.inputs) == 1
    assert unique.any() and all(scores.exact[unique].all() for scores in every)
    assert min(scores.exact.mean() for scores in every) < 1
    assert share(model, mazes, steps=1, symmetries=8, choose="vote") <= 1


def test_oblong_grids_have_the_symmetries_that_keep_their_shape():
    wide = maze.domain((4, 6))
    assert len(turnings(wide, np.full((1, 24), maze.FREE), 4)) == 4
    with pytest.raises(ValueError, match="allowed are 1 to 4"): turnings(wide, np.full((1, 24), maze.FREE), 5)


def test_fewer_turnings_are_the_beginning_of_more_and_the_seed_matters(puzzles):
    d = puzzles.domain
    def key(ts): return [(*t.cells, *t.tokens) for t in ts]
    few, more, other = (key(turnings(d, puzzles.inputs, n, seed)) for n, seed in ((3, 0), (3, 0), (3, 1)))
    assert few == more and few[0] == other[0] and few[1:] != other[1:] and len(set(key(turnings(d, puzzles.inputs, 50)))) == 50


def test_an_augmentation_that_cannot_be_undone_is_refused():
    grid = arc.encode(np.arange(9).reshape(3, 3))[None]
    assert len(turnings(arc.ARC, grid, 1)) == 1
    with pytest.raises(ValueError, match="cannot be undone"): turnings(arc.ARC, grid, 2)


def test_labels_are_not_looked_at(puzzles):
    model = fake(puzzles, lambda step, start: step == 2, q=lambda step, start: -step)
    hidden = puzzles.replace(labels=np.full_like(puzzles.labels, IGNORE, dtype=np.int16))
    for way in WAYS[1:]:
        options = dict(symmetries=3, choose=way)
        assert (think_more(model, puzzles, **options).predictions == think_more(model, hidden, **options).predictions).all()
    assert think_more(model, hidden).summary == {"count": 0}


@pytest.fixture
def tiny(tiny_model):
    model = tiny_model(1, no_ACT_continue=False)
    model.q_head.weight.data.normal_(generator=torch.Generator().manual_seed(2))  # untrained, it would say the same of everything
    return model, patterns.make(30, size=3, seed=1)


def test_one_plain_attempt_is_the_usual_evaluation(tiny):
    model, puzzles = tiny
    for way, halt in (("last", "never"), ("stop", "learned"), ("halt", "surest")):
        ours, usual = think_more(model, puzzles, choose=way), evaluate(model, puzzles, halt=halt)
        assert (ours.predictions == usual.predictions).all()
        assert halt == "surest" or (ours.puzzles.passes == usual.puzzles.steps).all()
        np.testing.assert_allclose(ours.puzzles.q_halt, usual.puzzles.q_halt, rtol=1e-4)
        assert ours.tags == usual.tags and ours.scores == usual.scores and (ours.groups == usual.groups).all()


def test_noise_is_drawn_from_the_seed_once_for_all_batches(tiny):
    model, puzzles = tiny
    def answers(**options): return attempt(model, puzzles, starts=3, noise=2., **options).q_halt
    assert (answers() == answers()).all() and not (answers() == answers(seed=1)).all()
    np.testing.assert_allclose(answers(), answers(batch_size=7), atol=1e-5)
    assert not np.allclose(answers()[:, 0], answers()[:, 1])
    np.testing.assert_allclose(answers()[:, 0], attempt(model, puzzles).q_halt[:, 0], atol=1e-5)


def test_every_budget_says_what_asking_with_it_would(puzzles):
    model = fake(puzzles, lambda step, start: step + start >= 4, q=lambda step, start: step * start, starts=3)
    table = accuracy_by_passes(attempt(model, puzzles, starts=3), puzzles, steps=[1, 3, 4], counts=[1, 3])
    assert len(table) == 3 * (len(WAYS) + len(WAYS) - 1) and table.share.nunique() > 1
    for row in table.itertuples():
        result = think_more(model, puzzles, starts=row.attempts, steps=row.steps, choose=row.way)
        assert (result.summary["exact_accuracy"], result.summary["passes"]) == (row.share, row.passes)
        assert row.low <= row.share <= row.high and row.passes <= row.attempts * row.steps


@pytest.mark.parametrize("options, message", [
    (dict(choose="best"), "choose is 'best'"), (dict(among="some"), "among is 'some'"), (dict(steps=0), "steps is 0"),
    (dict(starts=0), "starts is 0"), (dict(symmetries=0), "symmetries is 0"), (dict(batch_size=0), "batch_size is 0"),
    (dict(noise=-1.), "noise is -1"), (dict(noise=.5), "starts is 1 and noise 0.5"), (dict(starts=2, noise=float("nan")), "noise is nan"),
    (dict(symmetries=2, choose="last"), "2 attempts"), (dict(steps=10 ** 9), "ask in pieces")])
def test_bad_input_is_named(puzzles, options, message):
    with pytest.raises(ValueError, match=message): think_more(fake(puzzles, lambda *_: True), puzzles, **options)


def test_what_a_domain_or_a_result_lacks_is_named(tiny, puzzles):
    model, plain = tiny
    with pytest.raises(ValueError, match="no verifier"): think_more(model, plain, choose="verifier")
    with pytest.raises(ValueError, match="allowed are 1 to 1"): think_more(model, plain, symmetries=2)
    with pytest.raises(ValueError, match="vocab_size"): think_more(model, puzzles)
    tried = attempt(model, plain)
    with pytest.raises(ValueError, match="not judged"): choose_answers(tried, "verifier")
    with pytest.raises(ValueError, match="score is 'valid'"): accuracy_by_passes(tried, plain, score="valid")
    with pytest.raises(ValueError, match="allowed are 1 to 1 and 1 to 3"): tried.part(2, 1)
    assert "verifier" not in set(accuracy_by_passes(tried, plain).way)


def test_judging_asks_the_rules_not_the_labels(puzzles):
    told = judged(attempt(fake(puzzles, lambda step, start: step == 2), puzzles), puzzles)
    assert told.accepted[:, 0].tolist() == [[False, True, False, False]] * len(puzzles)
    assert (told.broken[:, 0, 1] == 0).all() and (told.broken[:, 0, 0] > 0).all()
    assert scored(told, puzzles, "verifier").summary["passes"] == 2
