"Settings of model and training beyond the published ones: every value trains, resumes to the bit and is refused where it makes no sense."
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

from hrm_nb import model as model_room
from hrm_nb import patterns, sudoku
from hrm_nb.act import LOSSES, initial_carry, reason, training_step
from hrm_nb.evaluation import evaluate
from hrm_nb.model import Reasoner, ReasonerConfig, count_parameters, updates_with_gradient
from hrm_nb.optim import MuonAdamW, hidden_matrices, learning_rate
from hrm_nb.puzzles import IGNORE, Batch
from hrm_nb.training import TrainConfig, Trainer, fit

SMALL = dict(vocab_size=12, seq_len=9, num_puzzle_identifiers=3, puzzle_emb_ndim=16, hidden_size=16, num_heads=4, expansion=2, H_layers=1,
             L_layers=1, H_cycles=3, halt_max_steps=3, halt_exploration_prob=.5, forward_dtype="float32", swiglu_multiple=8)
SETTINGS = TrainConfig(steps=8, batch_size=8, lr=3e-3, puzzle_lr=1e-2, warmup_steps=3, lr_min_ratio=.1, device="cpu", ema=.9)
MODELS = [dict(gradient="last_step"), dict(gradient="last_cycle"), dict(gradient="all"), dict(pos_encodings="grid"),
          dict(pos_encodings="grid", puzzle_emb_ndim=0, grid_rows=1), dict(arch="recurrent", no_ACT_continue=True), dict(arch="recurrent"),
          dict(starts=3), dict(starts=2, no_ACT_continue=True, puzzle_emb_ndim=0), dict(state_mean=.7), dict(state_mean=.7, starts=2)]
TRAININGS = [dict(label_smoothing=.1), dict(label_smoothing=.1, loss_type="softmax_cross_entropy"), dict(optimizer="muon"),
             dict(optimizer="muon", muon_lr=.005, accumulate=2), dict(depth_warmup=5), dict(depth_warmup=5, accumulate=2)]


def puzzles(n=32, seed=1): return patterns.make(n, size=3, seed=seed)
def fresh(seed=0, **changes):
    "A model that would stop after every step, so that chance has a say in how long it thinks."
    model = Reasoner(ReasonerConfig.hrm(**SMALL | changes), seed=seed)
    with torch.no_grad(): model.q_head.bias.copy_(torch.tensor([1., 0.]))
    return model


def batch_of(given):
    return Batch(torch.as_tensor(given.inputs).int(), torch.as_tensor(given.labels).long(), torch.as_tensor(given.identifiers).int())


def stepped(trainer, n):
    for _ in range(n): trainer.advance()
    return trainer


def deep_copy(checkpoint):
    return dataclasses.replace(checkpoint, model={k: v.clone() for k, v in checkpoint.model.items()},
                               training={k: v.clone() for k, v in checkpoint.training.items()},
                               averaged={k: v.clone() for k, v in checkpoint.averaged.items()})


@pytest.mark.parametrize("model, settings", [(m, {}) for m in MODELS] + [({}, t) for t in TRAININGS] +
                         [(dict(starts=3, state_mean=.7), dict(accumulate=2, label_smoothing=.1, optimizer="muon", depth_warmup=6))])
def test_every_value_trains_and_resumes_to_the_bit(model, settings):
    config = dataclasses.replace(SETTINGS, **settings)
    whole = stepped(Trainer(fresh(**model), puzzles(), config), 4)
    kept = deep_copy(whole.checkpoint())
    stepped(whole, 4)
    again = Trainer(fresh(seed=9, **model), puzzles(), config)
    again.restore(kept)
    stepped(again, 4)
    one, other = (t.checkpoint() for t in (whole, again))
    for part in ("model", "training", "averaged"):
        a, b = getattr(one, part), getattr(other, part)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), part
    assert all(torch.isfinite(v).all() for v in one.model.values())
    start = fresh(**model).state_dict()
    assert all(not torch.equal(v, start[k]) for k, v in one.model.items() if not k.endswith("_init"))


@pytest.mark.parametrize("settings", [dict(label_smoothing=.1), dict(optimizer="muon"), dict(depth_warmup=5), dict(held_out_examples=2)])
def test_a_value_makes_a_difference_and_its_default_does_not(settings):
    "Weights after some steps; `held_out_examples` alone must leave them."
    config = dataclasses.replace(SETTINGS, held_out=.25)
    default = {name: TrainConfig.__dataclass_fields__[name].default for name in settings}
    plain, off, on = (stepped(Trainer(fresh(), puzzles(), dataclasses.replace(config, **s)), 4).model.state_dict() for s in ({}, default, settings))
    assert all(torch.equal(plain[k], off[k]) for k in plain)
    assert all(torch.equal(plain[k], on[k]) for k in plain) == ("held_out_examples" in settings)


def test_configurations_written_before_these_fields_mean_the_same():
    new = {"gradient", "box_rows", "starts", "state_mean"}, {"label_smoothing", "muon_lr", "depth_warmup", "held_out_examples"}
    for config, added in zip((ReasonerConfig.hrm(**SMALL), SETTINGS), new, strict=True):
        old = {k: v for k, v in json.loads(json.dumps(config.to_dict())).items() if k not in added}
        assert type(config).from_dict(old) == config


@pytest.mark.parametrize("bad, words", [
    (dict(gradient="none"), "gradient is 'none'; allowed are published, last_step, last_cycle, all"),
    (dict(box_rows=3), "box_rows is 3 and pos_encodings is rope; boxes belong to grid"),
    (dict(pos_encodings="grid", box_rows=2), "box_rows is 2 on a grid of 3 rows and 3 columns; allowed are divisors"),
    (dict(pos_encodings="grid", grid_rows=1, box_rows=1), "on a grid of 1 rows and 9 columns"),
    (dict(starts=0), "starts is 0; allowed are whole numbers from 1"), (dict(starts=2.), "starts is 2.0"),
    (dict(state_mean=1.), "state_mean is 1.0; allowed are numbers from 0, below 1"), (dict(state_mean=-.1), "state_mean is -0.1"),
    (dict(pos_encodings="grid", seq_len=10), "10 tokens fill no square grid"), (dict(box_rows=-1), "box_rows is -1")])
def test_bad_models_are_refused(bad, words):
    with pytest.raises(ValueError, match=words): ReasonerConfig.hrm(**SMALL | bad)


@pytest.mark.parametrize("bad, words", [
    (dict(label_smoothing=1.), "label_smoothing is 1.0; allowed are numbers from 0, below 1"), (dict(label_smoothing=-.1), "label_smoothing"),
    (dict(muon_lr=-1), "muon_lr is -1"), (dict(depth_warmup=-1), "depth_warmup is -1"), (dict(optimizer="sgd"), "adamw, adam_atan2, muon"),
    (dict(held_out_examples=4), "held_out_examples is 4: .* need a held_out share"), (dict(held_out_examples=-1, held_out=.1), "held_out_examples is -1")])
def test_bad_trainings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words): dataclasses.replace(SETTINGS, **bad)


@pytest.mark.parametrize("model", [dict(H_cycles=1), dict(arch="transformer", halt_max_steps=1)])
def test_a_depth_that_cannot_grow_is_refused(model):
    with pytest.raises(ValueError, match="depth_warmup is 5, and the model .* can grow"):
        Trainer(fresh(**model), puzzles(), dataclasses.replace(SETTINGS, depth_warmup=5))


@pytest.mark.parametrize("arch", ["hrm", "trm", "recurrent"])
@pytest.mark.parametrize("gradient", ["published", "last_step", "last_cycle", "all"])
def test_gradients_flow_as_far_back_as_said(arch, gradient):
    "Against the same updates with everything before the last ones detached by hand."
    model = Reasoner(ReasonerConfig.hrm(**SMALL | dict(arch=arch, gradient=gradient, forward_dtype="float64"))).double()
    c, kept = model.config, updates_with_gradient(model.config)
    x = model.embed(torch.arange(18).view(2, 9) % 12, model.puzzle_rows(torch.tensor([0, 2]))).detach()
    weights = [p for name, p in model.named_parameters() if ".layers." in name]
    def gradients(z): return torch.autograd.grad(z.square().sum(), weights, allow_unused=True, materialize_grads=True)
    (H, L), (z_H, z_L), left = model.levels(), model.initial_states(2), c.H_cycles * (c.L_cycles + 1)
    for _ in range(c.H_cycles):
        for level in "L" * c.L_cycles + "H":
            if left == kept: z_H, z_L = z_H.detach(), z_L.detach()
            left -= 1
            if arch == "recurrent": z_H = L(z_H, x)
            elif level == "L": z_L = L(z_L, z_H + x)
            else: z_H = H(z_H, z_L)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients(z_H), gradients(model.think(*model.initial_states(2), x)[0]), strict=True))


def test_depth_grows_to_the_full_depth_and_evaluation_has_it_always(monkeypatch):
    seen, real = [], model_room.recur
    def spy(H, L, z_H, z_L, x, cycles, *rest):
        seen.append(cycles)
        return real(H, L, z_H, z_L, x, cycles, *rest)
    monkeypatch.setattr(model_room, "recur", spy)
    trainer = Trainer(fresh(no_ACT_continue=True), puzzles(), dataclasses.replace(SETTINGS, depth_warmup=4))
    stepped(trainer, 6)
    assert seen == [1, 1, 2, 2, 3, 3]
    trainer.step = 0
    evaluate(trainer.model, puzzles(4), max_steps=2)
    assert seen[6:] == [3, 3]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", [.1, .95])
def test_smoothed_losses_are_cross_entropies_to_smoothed_labels(name, share):
    logits, labels = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 6, 3, IGNORE, 3])
    each = torch.stack([LOSSES[name](logits, torch.full((5,), v)) for v in range(7)], 1)
    wanted = torch.full((5, 7), share / 6).scatter(1, labels.clamp(min=0)[:, None], 1 - share)
    assert torch.allclose(LOSSES[name](logits, labels, share), (wanted * each).sum(1) * (labels != IGNORE), atol=1e-5)


def test_smoothing_is_of_training_alone(tmp_path):
    "Of a model that does not move, evaluations report the plain loss."
    still = dict(lr=0., puzzle_lr=0., ema=0., held_out=.25, eval_every=4)
    plain, smooth = (fit(fresh(), puzzles(), None, dataclasses.replace(SETTINGS, label_smoothing=e, **still), tmp_path / f"{e}").history
                     for e in (0., .3))
    assert plain["held_out_lm_loss"].dropna().tolist() == smooth["held_out_lm_loss"].dropna().tolist()
    assert (plain.train_lm_loss - smooth.train_lm_loss).abs().min() > 1e-3


def test_muon_has_the_matrices_and_adamw_the_rest():
    model = fresh(mixing="conv", pos_encodings="grid", arch="trm")
    chosen = {id(p) for p in hidden_matrices(model)}
    names = [name for name, p in model.named_parameters() if id(p) in chosen]
    assert names == [f"L_level.layers.0.mlp.{n}.weight" for n in ("gate_up_proj", "down_proj")]
    config = dataclasses.replace(SETTINGS, optimizer="muon", muon_lr=.01, weight_decay=0.)
    trainer = Trainer(model, puzzles(), config)
    assert isinstance(trainer.optimizer, MuonAdamW) and [len(g["params"]) for g in trainer.optimizer.param_groups] == [2, len(trainer.params) - 2]
    stepped(trainer, 5)
    rates = [learning_rate(5, peak, 3, 8, .1) for peak in (.01, 3e-3)]
    assert [g["lr"] for g in trainer.optimizer.param_groups] == rates and trainer.rate == rates[1]
    before = [p.detach().clone() for p in hidden_matrices(model)]
    trainer.advance()
    rate = trainer.optimizer.param_groups[0]["lr"]
    for was, p in zip(before, hidden_matrices(model), strict=True):  # a step of about equal singular values
        values = torch.linalg.svdvals(was - p) / rate / max(1, p.shape[0] / p.shape[1]) ** .5
        assert .4 < values.min() and values.max() < 1.6


def test_held_out_examples_are_drawn_by_the_seed_and_choose_the_best(tmp_path):
    config = dataclasses.replace(SETTINGS, held_out=.5, eval_every=2, held_out_examples=5, log_every=2)
    run = fit(fresh(), puzzles(), None, config, tmp_path / "run")
    held = puzzles().split(.5, seed=config.seed)[1].sample(5, config.seed)
    scores = evaluate(run.model("final"), held, halt="never").summary
    assert math.isclose(run.history["held_out_lm_loss"].dropna().iloc[-1], scores["lm_loss"], rel_tol=1e-6)
    best = evaluate(run.model("best"), held).summary
    assert math.isclose(best["lm_loss"], run.history["held_out_lm_loss"].min(), rel_tol=1e-6) or best["exact_accuracy"] > 0


def test_a_row_shares_its_position_with_its_row():
    "Grid positions of cells that differ in one thing differ by that thing's vectors."
    model = Reasoner(ReasonerConfig.trm(**SMALL | dict(seq_len=36, pos_encodings="grid", box_rows=2)))
    cells = model.embed_pos.embedding_weight[model.config.prefix_len:].view(6, 6, -1)
    box = torch.tensor([[3 * 0 + i // 2 * 2 + j // 3 for j in range(6)] for i in range(6)])
    for one in ((0, 1), (3, 4)):  # columns of one box: the same difference in every row
        gap = cells[:, one[0]] - cells[:, one[1]]
        assert torch.allclose(gap, gap[:1].expand_as(gap), atol=1e-6)
    tables = {name: t.embedding_weight for name, t in model.embed_pos.tables.items()}
    expected = (tables["row"][:, None] + tables["column"][None] + tables["box"][box]) / 3 ** .5
    assert torch.allclose(cells, expected, atol=1e-6)


ABLATIONS = {"HRM": ReasonerConfig.hrm, "TRM": ReasonerConfig.trm, "recurrent": ReasonerConfig.recurrent, "transformer": ReasonerConfig.transformer}


@pytest.mark.parametrize("mixing", ["attention", "mlp", "conv"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_on_a_small_sudoku(name, mixing):
    data = sudoku.generate(24, box=(2, 2), givens=10, seed=0)
    sizes = {k: data.metadata[k] for k in ("vocab_size", "seq_len")}
    config = ABLATIONS[name](**sizes, mixing=mixing, pos_encodings="grid", box_rows=2, puzzle_emb_ndim=0, hidden_size=16, num_heads=2, expansion=2,
                             swiglu_multiple=8, forward_dtype="float32", halt_from="mean")
    trainer = Trainer(Reasoner(config), data, TrainConfig(steps=3, batch_size=8, lr=1e-3, device="cpu"))
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    stepped(trainer, 3)
    assert all(not torch.equal(v, before[k]) and v.isfinite().all() for k, v in trainer.model.named_parameters())
    assert evaluate(trainer.model, data).summary["count"] == 24


def test_ablations_are_of_one_size_and_as_many_passes():
    shape = dict(vocab_size=11, seq_len=81)
    size = {name: count_parameters(Reasoner(make(**shape))) for name, make in ABLATIONS.items()}
    assert size["HRM"] == size["transformer"] and size["TRM"] == size["recurrent"]
    one, other = ReasonerConfig.trm(**shape), ReasonerConfig.recurrent(**shape)
    assert dataclasses.replace(one, arch="recurrent") == other and updates_with_gradient(one) == updates_with_gradient(other)


def outcomes(model, data, steps=3, **changes):
    "Outcomes of steps with frozen weights, of a batch that stays."
    model, batch = fresh(**changes) if isinstance(model, int) else model, batch_of(data)
    carry, found = initial_carry(model, batch), []
    for _ in range(steps):
        found.append(training_step(model, carry, batch))
        carry = found[-1].carry
    return found


def test_more_starts_leave_start_0_and_all_weights_as_they_are():
    one, three = fresh(), fresh(starts=3)
    assert all(torch.equal(v, three.state_dict()[k]) for k, v in one.state_dict().items())
    data, answers = puzzles(5), [next(iter(reason(three, *map(torch.as_tensor, (p.inputs.astype(int), p.identifiers.astype(int))), start=k))).logits
                                 for p in [puzzles(5)] for k in range(3)]
    assert evaluate(one, data).puzzles.equals(evaluate(three, data).puzzles)
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
    for start in (-1, 3):
        with pytest.raises(ValueError, match=f"start is {start}; allowed are whole numbers from 0 to 2"): three.initial_states(2, start=start)


def test_the_best_start_is_trained_and_every_halting_value():
    "Against K models of one start each, whose starting states are these."
    data, K = puzzles(6), 3
    several = fresh(starts=K, no_ACT_continue=True, halt_exploration_prob=0.)
    out = outcomes(several, data, 1)[0]
    tokens, halts = [], []
    for k in range(K):
        alone = fresh(no_ACT_continue=True)
        for name, vector in zip(("H_init", "L_init"), [s[0, 0] for s in several.initial_states(1, start=k)], strict=True): setattr(alone, name, vector)
        z_H, _ = alone.think(*alone.initial_states(6), alone.embed(batch_of(data).inputs, alone.puzzle_rows(batch_of(data).identifiers)))
        logits, q = alone.read(z_H)
        labels = batch_of(data).labels
        tokens.append(LOSSES["stablemax_cross_entropy"](logits, labels).sum(1) / (labels != IGNORE).sum(1))
        solved = ((logits.argmax(-1) == labels) | (labels == IGNORE)).all(1)
        halts.append(F.binary_cross_entropy_with_logits(q[:, 0], solved.float(), reduction="none"))
    tokens, halts = torch.stack(tokens), torch.stack(halts)
    assert len(set(tokens.argmin(0).tolist())) > 1, "one start is the best of all puzzles: the test shows nothing"
    assert torch.allclose(out.loss, tokens.amin(0).sum() + .5 * halts.mean(0).sum(), rtol=1e-5)
    assert out.carry.z_H.shape[0] == 6 * K and out.carry.steps.shape == (6,) and out.logits.shape[0] == 6


def test_a_puzzle_is_put_away_from_all_its_starts_at_once():
    found = outcomes(0, puzzles(8), 4, starts=2, halt_exploration_prob=0.)
    model = fresh(starts=2)
    for before, after in zip(found, found[1:]):
        fresh_rows = before.carry.halted
        assert fresh_rows.any() and torch.equal(after.carry.steps, torch.where(fresh_rows, 1, before.carry.steps + 1).int())
        # a new puzzle's rows are those of a first step, the same for the same puzzle
        assert torch.allclose(after.carry.z_H.view(8, 2, *after.carry.z_H.shape[1:])[fresh_rows],
                              found[0].carry.z_H.view(8, 2, *after.carry.z_H.shape[1:])[fresh_rows], atol=1e-6)
    assert not model.more_init.requires_grad


def test_the_mean_is_of_the_states_so_far_and_comes_in_through_a_gate_that_begins_closed():
    data, ids = torch.as_tensor(puzzles(4).inputs).int(), torch.zeros(4).int()
    plain, recalling = fresh(), fresh(state_mean=.7)
    for a, b in zip(reason(plain, data, ids), reason(recalling, data, ids), strict=True): assert torch.equal(a.logits, b.logits)
    torch.nn.init.normal_(recalling.mean_gate, generator=torch.Generator().manual_seed(0))
    z_H, z_L = recalling.initial_states(4)
    mean, x = z_H, recalling.embed(data, recalling.puzzle_rows(ids))
    for step in reason(recalling, data, ids):
        given = x + recalling.mean_gate * mean
        z_H, z_L = plain.think(z_H, z_L, given)  # its other weights are the same
        mean = .7 * mean + .3 * z_H
        assert torch.allclose(step.z_H, z_H, atol=1e-5)
    with pytest.raises(ValueError, match="needs the mean from `remember`"): recalling.think(z_H, z_L, x)


def test_the_mean_travels_in_training_and_in_both_kinds_of_evaluation():
    data = puzzles(8)
    model = fresh(state_mean=.7, halt_exploration_prob=0.)
    torch.nn.init.normal_(model.mean_gate, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): model.q_head.bias.copy_(torch.tensor([-9., 9.]))  # goes on to the end
    steps = list(reason(model, batch_of(data).inputs, batch_of(data).identifiers))
    for out, step in zip(outcomes(model, data, 3), steps, strict=True): assert torch.allclose(out.carry.z_H, step.z_H, atol=1e-5)
    with torch.no_grad():  # halts where one channel of position 0 is above its middle over puzzles and steps
        seen = torch.stack([step.z_H[:, 0, 3] for step in steps])
        model.q_head.weight.zero_()[0, 3] = 1.
        model.q_head.bias.copy_(torch.stack([-seen.median(), torch.tensor(0.)]))
    learned = evaluate(model, data, halt="learned")
    assert learned.puzzles.steps.nunique() > 1, "all stop at once: the test shows nothing"
    for i, k in enumerate(learned.puzzles.steps): assert torch.equal(steps[k - 1].logits[i].argmax(-1), torch.as_tensor(learned.predictions[i]).long())
    mean = outcomes(model, data, 2)[1].carry.mean
    assert mean is not None and mean.dtype == torch.float32 and not mean.requires_grad


def test_nothing_is_carried_where_these_are_off():
    out = outcomes(0, puzzles(4), 1)[0]
    assert out.carry.mean is None and not any("mean" in k or "more" in k for k in fresh().state_dict())
    assert not any("mean" in k for k in stepped(Trainer(fresh(), puzzles(), SETTINGS), 1).checkpoint().training)
