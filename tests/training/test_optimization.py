import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.training.optimization import (
    Learner,
    LossMeter,
    LossWatch,
    accumulation,
    adamw,
    learning_rate,
    require_finite,
)
from diffiml_plugin.training.settings import TrainSettings


def learner(ema_decay=0.9):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    return Learner(model, torch.optim.AdamW(model.parameters()), ema_decay)


def train(learner, updates, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        learner.model(torch.rand(2, 1, 4, 4, generator=generator)).square().sum().backward()
        learner.update(1e-2)


def test_an_update_moves_the_weights_at_the_rate_and_clears_the_gradients():
    made = learner(ema_decay=0)
    before = made.model[0].weight.clone()
    train(made, 1)
    assert (before - made.model[0].weight).abs().max().item() == pytest.approx(1e-2, rel=0.05)  # AdamW's first step
    assert (made.rate, made.updates, made.tested) == (1e-2, 1, made.model)
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_the_moving_average_is_timms():
    made = learner()
    theirs = ModelEmaV3(made.model, 0.9, use_warmup=True)
    for step in range(1, 60):
        train(made, 1, seed=step)
        theirs.update(made.model, step)
    ours = made.tested.state_dict()
    assert made.tested is not made.model and not torch.equal(ours["0.weight"], made.model[0].weight)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(ours[name], value, atol=1e-3), name  # the first updates differ, and fade


def test_a_restored_learner_goes_on_as_if_nothing_had_happened():
    whole, first, second = learner(), learner(), learner()
    train(whole, 3, seed=0)
    train(whole, 4, seed=1)
    train(first, 3, seed=0)
    train(second, 9, seed=5)
    second.restore(first.state())
    train(second, 4, seed=1)
    assert second.updates == whole.updates == 7
    for ours, theirs in ((second.model, whole.model), (second.tested, whole.tested)):
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )


def test_a_loss_that_is_not_finite_is_named_with_what_is_known_of_it():
    require_finite(torch.tensor(1.0), 0)
    with pytest.raises(DiffIMLError, match=r"the loss is nan at step 1; lower --lr"):
        require_finite(torch.tensor(float("nan")), 0)
    with pytest.raises(
        DiffIMLError, match=r"inf at step 8, images a.png, b.png, t \[3, 4\]; look at these images, lower"
    ):
        require_finite(torch.tensor(float("inf")), 7, ["a.png", "b.png"], torch.tensor([3, 4]))


def test_a_backbone_learns_at_its_own_rate():
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 3), "frozen": nn.Linear(3, 3)})
    model.frozen.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    made = Learner(model, adamw(model, 1e-2, 0.05, model.backbone, 1e-4))
    (model.head(model.backbone(torch.rand(4, 3)))).square().sum().backward()
    made.update(5e-3)  # half of the peak
    moved = {name: (before[name] - parameter).abs().max().item() for name, parameter in model.named_parameters()}
    assert moved["head.bias"] == pytest.approx(5e-3, rel=0.05) and moved["backbone.bias"] == pytest.approx(
        5e-5, rel=0.05
    )
    assert moved["frozen.weight"] == 0 and made.rate == 5e-3
    decays = {id(p): group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    assert len(decays) == 4  # each once
    assert [decays[id(model[part].weight)] for part in ("backbone", "head")] == [0.05, 0.05]
    assert [decays[id(model[part].bias)] for part in ("backbone", "head")] == [0, 0]


def test_a_rate_for_a_frozen_backbone_is_refused():
    model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    model.backbone.requires_grad_(False)
    with pytest.raises(DiffIMLError, match="--encoder_lr 0.001 is of an encoder that is frozen"):
        adamw(model, 1e-2, 0.05, model.backbone, 1e-3)


def test_losses_are_looked_at_together_and_the_first_that_is_not_finite_is_named():
    watch = LossWatch()
    for update, value in enumerate((1.0, float("nan"), float("inf"))):
        watch.add(torch.tensor(value), update, [f"{update}.png"], torch.tensor([10 + update]))
    with pytest.raises(DiffIMLError, match=r"the loss is nan at step 2, images 1.png, t \[11\]"):
        watch.look()
    watch.look()  # nothing new


def test_a_loss_that_some_steps_alone_name_is_a_mean_over_those():
    meter = LossMeter()
    for losses, images in (({"loss": 1.0, "edge": 2.0}, 2), ({"loss": 4.0}, 1)):
        meter.add({name: torch.tensor(value) for name, value in losses.items()}, images)
    assert meter.point() == {"loss": 2.0, "edge": 2.0}
    meter.add({"edge": torch.tensor(8.0)}, 2)
    state = meter.state()
    meter.restore(state)
    assert meter.point() == {"edge": 8.0} and meter.mean() == {"loss": 2.0, "edge": 5.0}
    meter.restore({"since_point": ({"loss": 6.0}, 3), "total": ({}, 0)})  # as earlier versions stored it
    assert meter.point() == {"loss": 2.0}


def test_accumulation_is_derived_and_must_divide():
    assert accumulation(128, 16, 8) == 1
    assert accumulation(128, 4, 1) == 32
    with pytest.raises(DiffIMLError, match="128 cannot be made of 3 processes.*--total_batch_size divisible by 3"):
        accumulation(128, 16, 3)
    with pytest.raises(DiffIMLError, match="choose --batch_size 1 or 2 or 4 or 8$"):
        accumulation(8, 16, 1)


def test_learning_rate_is_the_frameworks():
    from IMDLBenCo.training_scripts.schedular.cos_lr_schedular import adjust_learning_rate

    for warmup in (0, 3):
        settings = TrainSettings(epochs=10, warmup_epochs=warmup, lr=1e-4, min_lr=1e-6)
        group = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        for progress in (0, 0.5, 2.9, 3, 7.25, 9.99):
            rate = learning_rate(progress / 10, 1e-4, 1e-6, warmup / 10)
            assert rate == pytest.approx(adjust_learning_rate(group, progress, settings))
