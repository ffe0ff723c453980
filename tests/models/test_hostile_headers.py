"""The header of a weights file is data: it runs nothing, opens nothing, and asks for nothing out of range."""

import json
import os
import socket

import pytest
import safetensors.torch
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.models.checkpoints import BEST, read_checkpoint, save_checkpoint
from diffiml_plugin.models.converted import convert
from diffiml_plugin.models.registry import DIFFIML, find_model, registered_models
from diffiml_plugin.prediction.model_card import write_card
from diffiml_plugin.weights.encoders import load_encoder_weights
from diffiml_plugin.weights.files import load_into, save_weights
from diffiml_plugin.weights.foreign import read_foreign, unpickle
from diffiml_plugin.weights.lightvae import load_lightvae

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture
def stored(tmp_path):
    """Writes a file of one weight under a header, which is text or what JSON makes of it, and gives its path."""

    def write(header):
        text = header if isinstance(header, str) else json.dumps(header)
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"diffiml": text})
        return path

    return write


def test_a_header_opens_no_file(stored, tmp_path, restore):
    code, ran = tmp_path / "conf.py", tmp_path / "ran"
    code.write_text(f"open({str(ran)!r}, 'w')\ncfg = None\n")
    for config in ({"config_path": str(code)}, {"config_path": str(tmp_path / "gone.yaml")}):
        with pytest.raises(DiffIMLError, match="trained with --config_path .*: pass --config_path yourself"):
            restore(stored({"model": "Trufor", "config": config}))
    assert not ran.exists()


def test_initial_weights_of_a_header_are_passed_over(stored):
    checkpoint = read_checkpoint(stored({"model": "Trufor", "config": {"np_pretrain_weights": "/x.pth", "phase": 3}}))
    assert checkpoint.flags == {"phase": 3} and not checkpoint.files
    settled = checkpoint.settle({}, {})
    assert settled["np_pretrain_weights"].value is None
    assert settled["config_path"].source == "from Trufor"  # the framework's own


@pytest.mark.parametrize("name", ["Trufor", "SPAN", "PSCC_Net", "unet", "segformer", "MSCDI_Net", "resnet", "DiffIML"])
def test_a_header_reaches_no_network(name, stored, monkeypatch, restore):
    def refuse(*args, **options):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = {flag: "/x.pth" for flag, p in find_model(name).flags.items() if p.default is p.empty}
    with pytest.raises(DiffIMLError, match="Its tensors: |cannot be built|far fewer|random weights|needs"):
        restore(stored({"model": name, "config": config}))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("[]", r"is \[\]; expected fields"),
        ("3", "is 3; expected fields"),
        ("x", "is no JSON"),
        ("[" * 10_000, "nested too deeply"),
        ('{"model": "DiffIML", "model": "TinyIML"}', "the key 'model' stands there twice"),
        ('{"model": "DiffIML", "threshold": NaN}', "NaN is no number"),
        ('{"a": "' + "x" * 2**20 + '"}', "more than 1048576 characters"),
        ({"model": ["DiffIML"]}, r"model is \['DiffIML'\]; expected str"),
        ({"model": 3}, "model is 3"),
        ({"model": "DiffIML", "config": []}, r"config is \[\]; expected dict"),
        ({"model": "DiffIML", "config": {"ensemble_size": 1000}}, r"ensemble_size=1000 is outside \[1, 100\]"),
        ({"model": "DiffIML", "config": {"ensemble_size": "5"}}, "config: ensemble_size is '5'"),
        ({"model": "DiffIML", "config": {"ensemble_size": True}}, "ensemble_size is True"),
        ({"model": "DiffIML", "config": {"num_inference_steps": -1}}, "num_inference_steps=-1 is outside"),
        ({"model": "DiffIML", "config": {"beta_end": 1e400}}, "Infinity is no number"),
        ({"model": "DiffIML", "config": {"encoder": "../../x"}}, "encoder is '../../x'; expected a plain word"),
        ({"model": "DiffIML", "config": {"encoder": "hf-hub:someone/x"}}, "expected a plain word"),
        ({"model": "DiffIML", "config": {"encoder": {"x": 1}}}, "encoder is {'x': 1}"),
        (
            {"model": "DiffIML", "config": {"encoder": "segformer_b0", "codec_layout": "9" * 9}},
            "codec_layout='999999999'",
        ),
        ({"model": "DiffIML", "config": {"lora": 10**9}}, "lora=1000000000"),
        ({"model": "DiffIML", "config": {"encoder": "segformer_b5"}}, "far fewer numbers than the model"),
        ({"model": "DiffIML", "config": {"future": 1}}, "a field 'future' that this version does not know.*update"),
        ({"model": "DiffIML", "input": {"image_size": -32}}, r"--image_size -32 is outside \[1, 4096\]"),
        ({"model": "DiffIML", "input": {"image_size": 10**6}}, "--image_size 1000000 is outside"),
        ({"model": "DiffIML", "input": {"image_size": "512"}}, "input: image_size is '512'"),
        ({"model": "DiffIML", "input": {"padding_mode": "edge"}}, "--padding_mode edge is not one of"),
        ({"model": "DiffIML", "input": {"future": 1}}, "input has a field 'future'"),
        ({"model": "DiffIML", "input": 3}, "input is 3"),
        ({"model": "DiffIML", "threshold": -1}, r"threshold -1 is outside \[0, 1\]"),
        ({"model": "DiffIML", "threshold": "0.5"}, "threshold is '0.5'"),
        ({"model": "MVSSNet", "config": {"n_input": 4096}}, "cannot be built as|far fewer numbers"),
        ({"model": "SparseViT", "config": {"norm_layer": "os.system"}}, "norm_layer is 'os.system'"),
        ({"model": "SparseViT", "config": {"depth": {"x": 1}}}, "depth is {'x': 1}"),
        ({"model": "SparseViT", "config": {"depth": [-1]}}, "SparseViT cannot be built as .*x.safetensors says"),
        (
            {"model": "SparseViT", "config": {"depth": [10**9, 1, 1, 1]}},
            r"depth is \[1000000000, 1, 1, 1\]; expected 4096",
        ),
        ({"model": "SparseViT", "config": {"depth": [1000, 1000, 1000, 1097]}}, "4096 at most, with its numbers added"),
        ({"model": "SPAN", "config": {"layers_steps": [-5e3]}}, r"layers_steps is \[-5000.0\]; expected 4096 at most"),
        ({"model": "IML_ViT", "config": {"patch_size": 10**9}}, "patch_size is 1000000000; expected 4096 at most$"),
        ({"model": "MVSSNet", "config": {"nclass": -5e3}}, "nclass is -5000.0; expected 4096 at most$"),
        ({"model": "MantraNet", "config": {"device": "cuda"}}, "device is 'cuda'"),
        ({"model": "TinyIML", "config": {"poison": "a/b"}}, "poison is 'a/b'; expected a plain word"),
    ],
)
def test_an_odd_header_is_refused_in_one_sentence(header, expected, stored, restore):
    with pytest.raises(DiffIMLError, match=expected) as refused:
        restore(stored(header))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("config", [None, [], {"width": "19"}, {"width": 0}, {"width": 10**6}, {"path": "x"}])
def test_a_codecs_header_is_no_argument(config, stored):
    with pytest.raises(DiffIMLError, match="config|width"):
        load_lightvae(stored({"model": "LightVAE", "config": config} if config is not None else {"model": "LightVAE"}))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda t: t.fill_(float("nan")), "1 not finite .layers.0.weight"),
        (lambda t: t.fill_(float("inf")), "1 not finite"),
        (lambda t: t.int(), "1 of another kind .layers.0.weight torch.int32 for torch.float32"),
        (lambda t: t.to(torch.complex64), "1 of another kind"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(spoil, expected, tmp_path):
    model = find_model("TinyIML").build({})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {**model.state_dict(), "layers.0.weight": spoil(before["layers.0.weight"].clone())}
    save_weights(tmp_path / BEST, before, {"model": "TinyIML"})
    with pytest.raises(DiffIMLError, match=expected):
        load_into(model, weights, tmp_path / BEST)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


def test_a_tensors_name_is_quoted_with_an_end(tmp_path):
    with pytest.raises(DiffIMLError, match="1 unexpected") as refused:
        load_into(find_model("TinyIML").build({}), {"x" * 100_000: torch.zeros(1)}, tmp_path / BEST)
    assert len(str(refused.value)) < 1000


def test_every_models_own_flags_pass(tmp_path):
    for name, card in registered_models().items():
        required = {flag: "" for flag, p in card.flags.items() if p.default is p.empty}
        flags = card.resolve(required)
        save_checkpoint(tmp_path / BEST, torch.nn.Linear(1, 1), name, flags, input={"image_size": 64})
        stored = read_checkpoint(tmp_path / BEST)
        assert stored.card.name == name
        settled = stored.settle({}, {})
        assert all(settled[flag].value in (value, list(value) if isinstance(value, tuple) else value, "none", "")
                   for flag, value in flags.items() if flag != "device"), name  # fmt: skip


def test_pickled_traps_are_refused(tmp_path):
    repeated = torch.zeros(1).expand(10**9)
    torch.save({"model": {"x": repeated}}, tmp_path / "repeated.pth")
    torch.save({"x": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse.pth")
    torch.save({"x": torch.zeros(2, device="meta")}, tmp_path / "meta.pth")
    torch.save({3: torch.zeros(2)}, tmp_path / "nameless.pth")
    for name in ("repeated", "sparse", "meta", "nameless"):
        with pytest.raises(DiffIMLError, match="holds no named tensors|holds a tensor of more numbers than the file"):
            read_foreign(tmp_path / f"{name}.pth")


class Reserved:
    def __reduce__(self):
        return bytearray, (10**7,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_reserves_no_memory(zipped, tmp_path, monkeypatch):
    torch.save({"x": Reserved()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("was read"))
    with pytest.raises(DiffIMLError, match="asks for memory that it does not fill"):
        unpickle(tmp_path / "x.pth")


def test_a_checkpoint_is_a_regular_file(tmp_path, restore):
    os.mkfifo(tmp_path / "x.pth")
    os.mkfifo(tmp_path / "x.safetensors")
    for path in (tmp_path / "x.pth", tmp_path / "x.safetensors", "/dev/zero"):
        for read in (unpickle, read_foreign, load_lightvae):
            with pytest.raises(DiffIMLError, match="is a pipe or a device"):
                read(path)
        with pytest.raises(DiffIMLError, match="is a pipe or a device"):
            restore(path)


def test_what_the_user_names_is_still_opened(stored, tmp_path):
    checkpoint = read_checkpoint(stored({"model": "Trufor", "config": {"config_path": "theirs.yaml"}}))
    assert checkpoint.settle({"config_path": "mine.yaml"}, {})["config_path"].value == "mine.yaml"


def test_diffimls_own_header_passes_whole(tmp_path):
    flags = DIFFIML.resolve({"encoder": "segformer_b0", "codec_weights": "/home/x/codec.safetensors"})
    save_checkpoint(tmp_path / BEST, torch.nn.Linear(1, 1), "DiffIML", flags)
    stored = read_checkpoint(tmp_path / BEST)
    assert stored.flags.keys() == flags.keys() - {"encoder_weights", "codec_weights"}
    assert stored.settle({}, {})["codec_weights"].value == "none"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"data": ["x"]}, r"data is \['x'\]; expected str"),
        ({"figures": {"a": {"f1": "x"}}}, "figures is"),
        ({"calibrated_on": "everything"}, "calibrated_on is 'everything'"),
    ],
)
def test_a_card_is_written_of_plain_facts(field, expected, stored, tmp_path):
    with pytest.raises(DiffIMLError, match=expected):
        write_card(stored({"model": "DiffIML", **field}), tmp_path / "card.md", "x", "x")


def test_a_card_obeys_no_text(stored, tmp_path):
    text = "<script>x</script> ![x](https://x.org/x.png)"
    header = {"model": text, "config": {"encoder": text}, "data": text, "limits": text, "calibrated_on": [text]}
    card = write_card(stored(header), tmp_path / "card.md", "x", "x").read_text()
    assert "<script>" not in card and "](https" not in card and card.count("&lt;script&gt;") == 4


@pytest.mark.parametrize(
    "names",
    [
        ("encoder.0.weight", "encoder.9.weight", "decoder.12.weight"),
        ("extractor.linear_fuse.0.weight", "unet.concat.weight", "unet.unet.conv_in.weight"),
    ],
)
def test_tensors_without_a_shape_are_not_converted(names, tmp_path):
    safetensors.torch.save_file({name: torch.zeros(()) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(DiffIMLError, match="no file of weights"):
        convert(tmp_path / "x.safetensors", tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["block1.0.attn.kv.weight", "segformer.encoder.patch_embeddings.0.proj.weight"])
def test_an_encoders_tensors_without_a_shape_are_refused(name, tmp_path):
    safetensors.torch.save_file({name: torch.zeros(())}, tmp_path / "x.safetensors")
    with pytest.raises(DiffIMLError):
        load_encoder_weights(build_encoder("segformer_b0"), "segformer_b0", tmp_path / "x.safetensors")
