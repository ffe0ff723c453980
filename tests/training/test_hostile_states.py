"""The state of a run, its log and how it was started are data: odd ones are refused in a sentence, or passed over."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.training.engine import train
from diffiml_plugin.training.log import LOG, Log
from diffiml_plugin.training.optimization import Learner, LossMeter
from diffiml_plugin.training.resume import STATE, restoring, save_state, state_to_resume
from diffiml_plugin.training.tracking import RUN, describe_run

WHOLE = {"settings": {"lr": 1.0}, "model": {}, "optimizer": {}, "epoch": 1, "best": 0.5}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ([], "is no training state"),
        ({"settings": {}}, "is no training state"),
        (WHOLE | {"settings": [1]}, r"settings is \[1\]; expected dict"),
        (WHOLE | {"model": 3}, "model is 3"),
        (WHOLE | {"model": {"a": [{"b": torch.zeros(1).expand(10**9)}]}}, "a tensor of more numbers than the file"),
        (WHOLE | {"epoch": "one"}, "epoch is 'one'; expected int"),
        (WHOLE | {"epoch": float("nan")}, "epoch is nan"),
        (WHOLE | {"best": float("nan")}, "best is nan"),
        (WHOLE | {"epoch": -2}, "epoch is -2; expected 0 or more"),
        (WHOLE | {"minutes": float("nan")}, "minutes is nan"),
        (WHOLE | {"settings": {"epochs": 3}, "epoch": 4}, "epoch is 4; expected at most the run's epochs, 3"),
        (WHOLE | {"settings": {"steps": 3}, "update": 10**12}, "update is 10+; expected at most the run's steps, 3"),
        (WHOLE | {"best": 5.0}, "best is 5.0; expected an F1, 0 to 1"),
        (WHOLE | {"settings": {"epochs": "x"}}, "settings: epochs is 'x'; expected int"),
        (WHOLE | {"settings": {"epochs": None}}, "settings: epochs is None"),
        (WHOLE | {"settings": {"lr": torch.ones(3)}}, "settings hold more than plain values"),
        (WHOLE | {"settings": {"lr": [{"a": torch.ones(3)}]}}, "settings hold more than plain values"),
        (WHOLE | {"settings": {"lr": ["x" * 10_000]}}, r"other settings: --lr \['xxx.{0,40}'\] \(now 1.0\)"),
    ],
)
def test_an_odd_state_is_refused(state, expected, tmp_path):
    save_state(tmp_path / STATE, {"state": state} if isinstance(state, list) else state)
    with pytest.raises(DiffIMLError, match=expected):
        state_to_resume(tmp_path, "auto", {"lr": 1.0}, {})


@pytest.mark.parametrize("spoilt", [{"model": {}}, {"optimizer": {}}, {"optimizer": {"param_groups": 3}}])
def test_a_state_that_does_not_fit_is_no_traceback(spoilt):
    model = torch.nn.Linear(2, 1)
    learner = SimpleNamespace(model=model, optimizer=torch.optim.AdamW(model.parameters()), average=None)
    state = {"model": model.state_dict(), "optimizer": learner.optimizer.state_dict(), "update": 0}
    with restoring():
        Learner.restore(learner, state)
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        Learner.restore(learner, state | spoilt)


def learner() -> Learner:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    made = Learner(model, torch.optim.AdamW(model.parameters(), weight_decay=0.1))
    model(torch.ones(1, 2)).sum().backward()
    made.update(0.1)
    return made


def test_the_options_of_the_optimizer_are_the_runs_own():
    state, first = learner().state(), learner()
    state["optimizer"]["param_groups"][0] |= {"maximize": True, "weight_decay": 50.0, "betas": ("a", "b"), "lr": 0.3}
    options = {**first.optimizer.param_groups[0], "lr": 0.3}
    first.restore(state)
    assert first.optimizer.param_groups[0] == options


@pytest.mark.parametrize("kind", [torch.int32, torch.complex64, torch.float64])
@pytest.mark.parametrize("part", ["model", "ema"])
def test_weights_of_another_type_are_refused(part, kind):
    model = torch.nn.Linear(2, 1)
    averaged = Learner(model, torch.optim.AdamW(model.parameters()), ema_decay=0.9)
    state = averaged.state()
    averaged.restore(state)
    spoilt = {name: tensor.to(kind) for name, tensor in state[part].items()}
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        averaged.restore(state | {part: spoilt})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model", "ema", "exp_avg", "exp_avg_sq"])
def test_numbers_that_are_not_finite_are_refused(part, number):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    averaged = Learner(model, torch.optim.AdamW(model.parameters()), ema_decay=0.9)
    model(torch.ones(1, 2)).sum().backward()
    averaged.update(0.1)
    state = copy.deepcopy(averaged.state())
    averaged.restore(state)
    tensor = state[part]["weight"] if part in state else state["optimizer"]["state"][0][part]
    tensor[0, 0] = number
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        averaged.restore(state)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"exp_avg": torch.zeros(5)},
        {"exp_avg_sq": 3},
        {"step": torch.tensor(-1.0)},
        {"step": "one"},
        {"step": float("inf")},
    ],
)
def test_moments_of_another_form_are_refused(spoilt):
    state = learner().state()
    state["optimizer"]["state"][0] |= spoilt
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        learner().restore(state)


def test_a_state_without_moments_is_refused():
    state = learner().state()
    learner().restore(state)
    state["optimizer"]["state"] = {}
    learner().restore(state | {"scaler": {"scale": 1.0}})  # which skips the first updates in fp16
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        learner().restore(state)


@pytest.mark.parametrize(
    "sums", [({"loss": "x"}, 1), ({"loss": 1.0}, "x"), (3, 1), {"loss": (float("nan"), 8)}, {"loss": (1.0, -8)}]
)
def test_losses_of_another_form_are_refused(sums):
    with pytest.raises(DiffIMLError, match="the training state does not fit this model"), restoring():
        LossMeter().restore({"since_point": ({}, 0), "total": sums})


@pytest.mark.parametrize("line", ["[1]", '{"epoch": "0"}', '{"epoch": NaN}', "[" * 10_000, "mine"])
def test_odd_lines_of_a_log_are_told_and_kept(tmp_path, line):
    content = f'{{"epoch": 0}}\n{line}\n{{"epoch": 1}}\n'
    (tmp_path / LOG).write_text(content)
    with pytest.raises(DiffIMLError, match="log.jsonl, line 2, is no record of a training; move that file, and go on"):
        Log(tmp_path, "epoch", 2)
    assert (tmp_path / LOG).read_text() == content


@pytest.mark.parametrize(("content", "expected"), [("{", "is no JSON"), ("{}", "no list of starts")])
def test_an_odd_description_of_a_run_is_refused(content, expected, tmp_path):
    (tmp_path / RUN).write_text(content)
    with pytest.raises(DiffIMLError, match=expected):
        describe_run(tmp_path, {"lr": 1.0})
    assert (tmp_path / RUN).read_text() == content


@pytest.mark.parametrize("part", ["update", "epoch", "done"])
def test_a_state_whose_counts_do_not_agree_is_refused(settings, tmp_path, part):
    state = torch.load(train(settings).folder / "training_state.pt", weights_only=True)
    state[part] += 1 if part == "done" else -1
    torch.save(state, tmp_path / "training_state.pt")
    settings = replace(settings, output_dir=str(tmp_path / "new"), resume=str(tmp_path / "training_state.pt"))
    with pytest.raises(DiffIMLError, match="the training state does not fit this model and optimizer"):
        train(settings)
