"How a training set is drawn: balanced by a tag, easy puzzles first; in the stream, through split and folder, resumed."
import json

import numpy as np
import pandas as pd
import pytest
import torch

from hrm_nb import patterns
from hrm_nb.batches import Batches, arranged, group_order
from hrm_nb.model import Reasoner, ReasonerConfig
from hrm_nb.puzzles import PuzzleSet, overlap
from hrm_nb.recipes import MazeData, PatternData, SudokuData, build, recipe
from hrm_nb.runs import Run
from hrm_nb.training import Callback, TrainConfig, fit, resume


def graded(n=90, seed=0):
    "Puzzles of three kinds, half of them of the first, and of known difficulty."
    rng = np.random.default_rng(seed)
    tags = pd.DataFrame({"kind": rng.choice(list("abc"), n, p=(.5, .4, .1)), "path": rng.permutation(n) / 7})
    return PuzzleSet(rng.integers(0, 4, (n, 6)), np.ones((n, 6), int), tags=tags)


@pytest.mark.parametrize("seed", range(10))
def test_balance_draws_every_value_as_often_and_every_group(seed):
    puzzles = arranged(graded(seed=seed), balance="kind")
    order = group_order(puzzles, np.random.default_rng(seed))
    kinds, most = puzzles.tags.kind.to_numpy(), puzzles.tags.kind.value_counts().max()
    assert set(pd.Series(kinds[order]).value_counts()) == {most}
    drawn = np.bincount(order, minlength=len(puzzles))
    for kind in "abc": assert np.ptp(drawn[kinds == kind]) <= 1 and drawn[kinds == kind].min() >= 1   # as even as can be


@pytest.mark.parametrize(("curriculum", "balance"), [(.5, ""), (2, ""), (2, "kind")])
def test_a_curriculum_offers_what_it_says_and_ends(curriculum, balance):
    puzzles = arranged(graded(3000), balance=balance, curriculum=curriculum, by="path")
    for epoch in range(4):
        order = group_order(puzzles, np.random.default_rng([1, epoch]), epoch)
        size = len(order)
        pool = np.sort(puzzles.tags.path.to_numpy()[group_order(arranged(puzzles, balance=balance), np.random.default_rng(0))]) \
            if balance else np.sort(puzzles.tags.path.to_numpy())
        far = np.minimum(1, (epoch + np.arange(size) / size) / curriculum)
        limit = np.quantile(pool, 1 / 3 + 2 / 3 * far)
        drawn = puzzles.tags.path.to_numpy()[order]
        assert (drawn <= limit * 1.03 + 2).all()
        early = far < 1
        if early.any(): assert (drawn[early] > .8 * limit[early]).mean() > .1                          # and up to the limit
        if not early.any() and not balance: assert sorted(order) == list(range(len(puzzles)))
    assert size == len(group_order(arranged(puzzles, balance=balance), np.random.default_rng(0)))      # as many as otherwise


def test_the_stream_can_be_entered_anywhere():
    puzzles = arranged(graded(), balance="kind", curriculum=1.5, by="path")
    stream = Batches(puzzles, 8, seed=3)
    for _ in range(50):
        entered = Batches(puzzles, 8, seed=3)
        entered.seek(stream.state())
        assert torch.equal(entered.next().inputs, stream.next().inputs)


def test_the_wish_goes_with_the_set(tmp_path):
    puzzles = arranged(graded(), balance="kind", curriculum=1.5, by="-path")
    puzzles.save(tmp_path, "train")
    again = PuzzleSet.load(tmp_path, "train")
    assert again.hash == puzzles.hash != graded().hash
    kept, held = puzzles.split(.2, seed=1)
    assert len(held) == 18 and len(kept) == 72
    assert kept.metadata["drawn"] == puzzles.metadata["drawn"]
    order = group_order(kept, np.random.default_rng(0), 9)
    assert set(kept.tags.kind.iloc[order].value_counts()) == {kept.tags.kind.value_counts().max()}


def test_no_held_out_puzzle_is_trained_on_however_often_it_is_drawn(tmp_path):
    data = PatternData(train=200, test=20, copies=.2, size=3, balance="pattern")
    train, _ = data.load()
    kept, held = train.split(.2, seed=0)
    stream, seen = Batches(kept, 16), []
    for _ in range(3 * stream.steps_per_epoch): seen.append(stream.next().inputs.numpy())
    drawn = PuzzleSet(np.concatenate(seen).astype(int), np.ones((sum(map(len, seen)), 9), int))
    assert not set(overlap(kept, held)) & set(overlap(drawn, held)) - set(overlap(kept, held))
    assert len(overlap(drawn, held)) == len(overlap(kept, held))


class Die(Callback):
    def on_step(self, trainer):
        if trainer.step == 9: raise RuntimeError("died")


def test_a_run_under_both_resumes_to_the_same_bits(tmp_path):
    puzzles = arranged(patterns.make(64, size=3, seed=1).replace(
        tags=pd.DataFrame({"pattern": ["a"] * 48 + ["b"] * 16, "path": range(64)})), balance="pattern", curriculum=1.5, by="path")
    model = ReasonerConfig.hrm(vocab_size=12, seq_len=9, num_puzzle_identifiers=3, hidden_size=16, num_heads=2, expansion=2, H_layers=1,
                               L_layers=1, H_cycles=1, L_cycles=1, puzzle_emb_ndim=16, halt_max_steps=2, forward_dtype="float32")
    config = TrainConfig(steps=20, batch_size=8, held_out=.1, checkpoint_every=4, device="cpu")
    whole = fit(Reasoner(model, seed=0), puzzles, None, config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="died"):
        fit(Reasoner(model, seed=0), puzzles, None, config, tmp_path / "broken", callbacks=[Die()])
    again = resume(tmp_path / "broken")
    for a, b in zip(whole.model("final").state_dict().values(), again.model("final").state_dict().values(), strict=True):
        assert torch.equal(a, b)
    plain = fit(Reasoner(model, seed=0), puzzles.replace(metadata=dict(drawn={})), None, config, tmp_path / "plain")
    assert plain.history.train_lm_loss.tolist() != whole.history.train_lm_loss.tolist()
    with pytest.raises(ValueError, match="the train set has hash"): resume(again.path, plain.puzzles("train"))


@pytest.mark.parametrize("drawn", ["oddly", {"balance": 3}, {"balance": "kind", "curriculum": 1.0}, ["balance"], 7])
def test_a_description_that_makes_no_sense(drawn):
    with pytest.raises(ValueError, match="drawn is .* in the set's description"):
        Batches(graded().replace(metadata=dict(drawn=drawn)), 4).next()


def test_fields_of_recipes():
    r = recipe("sudoku-4x4", data=dict(train=300, test=20, givens=(5, 10), balance="givens", curriculum=2.0))
    _, train, test = build(r)
    assert train.metadata["drawn"] == dict(balance="givens", curriculum=2.0) and "drawn" not in test.metadata
    assert train.tags.givens[train.tags.difficulty_rank == 1].eq(10).all()
    assert 5 <= train.tags.givens.min() and train.tags.givens.max() == 10
    mazes, _ = MazeData("generate", size=6, min_path=6, train=40, test=5, curriculum=1.0, symmetries="solved").load()
    assert mazes.tags.path[mazes.tags.difficulty_rank == 1].unique().tolist() == [mazes.tags.path.min()]
    assert "difficulty_rank" not in MazeData("generate", size=6, min_path=6, train=4, test=2).load()[0].tags


@pytest.mark.parametrize(("make", "words"), [
    (lambda: PatternData(curriculum=1.0).load(), "the curriculum's tag is ''; the tags of these puzzles are pattern"),
    (lambda: PatternData(balance="colour").load(), "balance is 'colour'; the tags of these puzzles are pattern"),
    (lambda: PatternData(curriculum=-1.0), "curriculum is -1.0"),
    (lambda: PatternData(curriculum=1.0, curriculum_by="pattern").load(), "its values must be numbers"),
    (lambda: SudokuData("generate", box=(2, 2), train=4, test=2, givens=(2, 20)).load(), "allowed are numbers"),
    (lambda: arranged(graded(300), balance="path"), "at most 100 are allowed")])
def test_fields_that_make_no_sense(make, words):
    with pytest.raises(ValueError, match=words): make()


def test_a_run_records_the_fields(tmp_path):
    r = recipe("copy-increment", data=dict(train=64, test=8, size=3, balance="pattern"), train=dict(steps=2, batch_size=8))
    model, train, test = build(r)
    run = fit(model, train, test, r.train, tmp_path / "run")
    assert json.loads((run.path / "data/train/dataset.json").read_text())["drawn"] == dict(balance="pattern", curriculum=0.0)
    assert Run(run.path).puzzles("train").hash == train.hash
