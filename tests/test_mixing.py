"Mixing of positions by attention, SwiGLU or convolution: settings, sizes, gradients, training and resuming."
import dataclasses
import json

import numpy as np
import pytest
import torch

from hrm_nb import arc, patterns
from hrm_nb.act import initial_carry, reason, training_step
from hrm_nb.evaluation import evaluate, solve
from hrm_nb.layers import convolution, depthwise
from hrm_nb.model import Reasoner, ReasonerConfig, count_parameters
from hrm_nb.puzzles import Batch
from hrm_nb.recipes import ARC_RULES, ArcRules, arc_examples, build, recipe
from hrm_nb.training import Callback, TrainConfig, fit, resume

SMALL = dict(vocab_size=12, seq_len=16, num_puzzle_identifiers=3, puzzle_emb_ndim=16, hidden_size=16, num_heads=4, expansion=2,
             H_layers=1, L_layers=1, halt_max_steps=3, forward_dtype="float32", swiglu_multiple=8)
CONV = dict(mixing="conv", conv_size=3, halt_from="mean")


def batch_of(puzzles):
    return Batch(torch.as_tensor(puzzles.inputs).int(), torch.as_tensor(puzzles.labels).long(), torch.as_tensor(puzzles.identifiers).int())


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (6, 2), (5, 5)])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_depthwise_is_linear_in_both_and_has_the_right_gradients(grid, k):
    g = torch.Generator().manual_seed(k)
    cells, kernel = (torch.randn(n, generator=g, dtype=torch.float64).requires_grad_() for n in ((2, grid[0] * grid[1], 3), (3, k * k)))
    assert torch.autograd.gradcheck(lambda x, w: depthwise(x, w, grid), (cells, kernel))
    assert torch.allclose(depthwise(2 * cells, 3 * kernel, grid), 6 * depthwise(cells, kernel, grid))


@pytest.mark.parametrize("P", [1, 4])
def test_prefix_and_grid_exchange_means(P):
    g = torch.Generator().manual_seed(P)
    x, kernel, exchange = (torch.randn(n, generator=g, dtype=torch.float64).requires_grad_() for n in ((2, P + 6, 3), (3, 9), (3, 2)))
    assert torch.autograd.gradcheck(lambda *t: convolution(*t, grid=(2, 3)), (x, kernel, exchange))
    moved = x.detach().clone()
    moved[:, 0] += P
    difference = convolution(moved, kernel, exchange, grid=(2, 3)) - convolution(x, kernel, exchange, grid=(2, 3))
    assert torch.allclose(difference[:, :P], torch.zeros(1, dtype=torch.float64)) and torch.allclose(difference[:, P:], exchange[:, 0].expand(2, 6, 3))


def test_configurations_written_before_mixing_existed_mean_the_same():
    new = ("mixing", "conv_size", "grid_rows", "halt_from", "swiglu_multiple")
    for make, mixes in ((ReasonerConfig.hrm, "attention"), (lambda **o: ReasonerConfig.trm(mlp_t=True, **o), "mlp")):
        config = make(vocab_size=11, seq_len=81)
        old = {k: v for k, v in config.to_dict().items() if k not in new}
        assert ReasonerConfig.from_dict(json.loads(json.dumps(old))) == config and config.mixes == mixes


def test_weights_of_mlp_t_load_into_mixing_mlp():
    one, other = (Reasoner(ReasonerConfig.trm(**SMALL | o), seed=s) for s, o in enumerate((dict(mlp_t=True), dict(mixing="mlp"))))
    other.load_state_dict(one.state_dict(), strict=True)
    inputs, ids = torch.arange(32).view(2, 16).int() % 12, torch.tensor([0, 2])
    for a, b in zip(reason(one, inputs, ids), reason(other, inputs, ids)): assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("bad, words", [
    (dict(mlp_t=True, mixing="conv"), "mlp_t is True and mixing is conv"), (dict(mlp_t=True, mixing="attention"), "mlp_t False"),
    (dict(conv_size=2), "conv_size is 2; allowed are odd"), (dict(mixing="conv", seq_len=15), "15 tokens fill no square grid"),
    (dict(mixing="conv", grid_rows=3), "16 tokens fill no grid of 3 rows"), (dict(mixing="dense"), "allowed are auto, attention, mlp, conv"),
    (dict(halt_from="last"), "allowed are first, mean"), (dict(swiglu_multiple=0), "swiglu_multiple is 0")])
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words): ReasonerConfig.hrm(**SMALL | bad)


@pytest.mark.parametrize("arch", ["hrm", "trm", "transformer"])
@pytest.mark.parametrize("options", [CONV, CONV | dict(halt_from="first"), CONV | dict(puzzle_emb_ndim=0), CONV | dict(pos_encodings="learned"),
                                     dict(halt_from="mean"), dict(mixing="mlp", halt_from="mean")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_gets_a_gradient(arch, options, dtype):
    steps = {} if arch != "transformer" else dict(halt_max_steps=1)
    model = Reasoner(getattr(ReasonerConfig, arch)(**SMALL | options | dict(forward_dtype=dtype) | steps))
    model.q_head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    batch = batch_of(patterns.make(6, size=4, seed=0))
    out = training_step(model, initial_carry(model, batch), batch)
    out.loss.backward()
    assert out.loss.isfinite() and all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert out.rows is None or (out.rows.grad.abs().sum(1) > 0).all()


def test_the_kind_of_puzzle_reaches_every_cell():
    model = Reasoner(ReasonerConfig.trm(**SMALL | CONV))
    model.puzzle_emb.weights.normal_(generator=torch.Generator().manual_seed(0))
    inputs = torch.zeros(2, 900, dtype=torch.int32)
    step = next(iter(reason(model, inputs, torch.tensor([1, 2]))))
    assert step.logits.shape == (2, 900, 12) and ((step.logits[0] - step.logits[1]).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("halt", ["never", "learned", "surest"])
def test_a_convolution_reads_grids_of_other_sizes(halt):
    model = Reasoner(ReasonerConfig.trm(**SMALL | CONV))
    found = evaluate(model, patterns.make(5, size=7, seed=1), halt=halt)
    assert found.predictions.shape == (5, 49)
    assert solve(model, np.full((6, 6), 2), halt=halt).shape == (6, 6)
    for other in (dict(pos_encodings="learned"), dict(mixing="attention"), dict(mixing="mlp")):
        fixed = Reasoner(ReasonerConfig.trm(**SMALL | CONV | other))
        with pytest.raises(ValueError, match="seq_len 16"): evaluate(fixed, patterns.make(5, size=7, seed=1), halt=halt)
        with pytest.raises(ValueError, match="a grid of 36 cells"): solve(fixed, np.full((6, 6), 2))
    with pytest.raises(ValueError, match="12 tokens fill no square grid"): solve(model, np.full((3, 4), 2))
    assert solve(Reasoner(dataclasses.replace(model.config, grid_rows=4)), np.full((4, 5), 2)).shape == (4, 5)


class StopsAt6(Callback):
    def on_step(self, trainer):
        if trainer.step == 6: raise KeyError


def test_training_and_resuming_end_in_the_same_bits(tmp_path):
    model = ReasonerConfig.trm(**SMALL | CONV)
    data, settings = patterns.make(40, size=4, seed=2), TrainConfig(steps=8, batch_size=8, device="cpu", ema=.9, checkpoint_every=4)
    whole = fit(Reasoner(model), data, config=settings, run=tmp_path / "whole")
    with pytest.raises(KeyError): fit(Reasoner(model), data, config=settings, run=tmp_path / "part", callbacks=[StopsAt6()])
    a, b = (run.model("final").state_dict() for run in (whole, resume(tmp_path / "part")))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_convolution_learns_a_local_rule_on_small_grids_and_applies_it_on_large_ones(tmp_path):
    "Increment, without prefix: the answer of each cell is a function of the cell."
    common = dict(patterns=("increment",), identified=False)
    train, large = patterns.make(256, size=4, seed=0, **common), patterns.make(20, size=9, seed=1, **common)
    config = ReasonerConfig.trm(**SMALL | CONV | dict(puzzle_emb_ndim=0, num_puzzle_identifiers=1, H_cycles=1, L_cycles=1, halt_max_steps=2))
    run = fit(Reasoner(config), train, config=TrainConfig(steps=150, batch_size=32, lr=.02, weight_decay=0, device="cpu"), run=tmp_path / "run")
    assert count_parameters(run.model("final")) < 5000
    assert evaluate(run.model("final"), large).summary["accuracy"] > .98


def test_made_arc_examples_follow_their_rules_and_ask_nothing_of_the_test_set():
    train, test = ArcRules(train=60, test=5).load()
    assert train.domain.shape == (14, 14) and test.domain == arc.ARC and len(train.group_indices) == len(train) + 1
    corner = test.inputs.reshape(-1, 30, 30)[:, :14, :14].reshape(len(test), -1)
    assert not {bytes(x) for x in train.inputs} & {bytes(x) for x in corner}
    for inputs, labels, task in zip(arc.decode(test.inputs), arc.decode(np.where(test.labels < 0, 0, test.labels)), test.tags.task):
        assert np.array_equal(ARC_RULES[task](inputs), labels), task
    assert len(ArcRules().fresh(3, seed=1)) == 3
    with pytest.raises(ValueError, match="found are"): arc_examples("swap", 500, largest=2)


@pytest.mark.parametrize("name", ["maze-10x10", "arc-samples"])
def test_recipes_that_ship_are_small_and_read_any_size(name):
    sizes = dict(train=20, test=2) | (dict(size=10) if name.startswith("maze") else {})
    model, train, test = build(recipe(name, data=sizes))
    assert 4 * sum(t.numel() for t in model.state_dict().values()) < 500_000
    assert model.config.reads(train.metadata["seq_len"]) and model.config.reads(test.metadata["seq_len"])
