from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_patch_embed
from torch import nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.mit import MIT_VARIANTS
from diffiml_plugin.weights.encoders import load_encoder_weights


def randomise(model: nn.Module) -> nn.Module:
    """Makes every tensor differ from its initial constant, so that none can be mistaken for another."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def hugging_face(name: str) -> nn.Module:
    from transformers import SegformerConfig, SegformerForImageClassification

    channels, depths = MIT_VARIANTS[name]
    return randomise(SegformerForImageClassification(SegformerConfig(hidden_sizes=channels, depths=depths)))


def nvidia(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    from IMDLBenCo.modules.backbones.segformer import MixVisionTransformer

    channels, depths = MIT_VARIANTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda path: {})  # its constructor insists on a file
        model = MixVisionTransformer(embed_dims=list(channels), depths=list(depths))
    model.head = nn.Linear(channels[-1], 1000)  # as in the published files
    model.deconv_model = nn.Identity()
    return randomise(model)


def largest_difference(features, expected):
    return max((ours - theirs).abs().max().item() for ours, theirs in zip(features, expected, strict=True))


@pytest.fixture
def image():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b3"])
@pytest.mark.parametrize("layout", ["transformers 4.x", "transformers 5.x"])
@torch.no_grad()
def test_agrees_with_transformers(name, layout, image, tmp_path):
    reference, path = hugging_face(name), tmp_path / "model.safetensors"
    if layout == "transformers 4.x":
        reference.save_pretrained(tmp_path)  # in the names that published files have
        assert "segformer.encoder.patch_embeddings.0.proj.weight" in safetensors.torch.load_file(path)
    else:
        safetensors.torch.save_file(reference.segformer.state_dict(), path)
    encoder = build_encoder(name).eval()
    load_encoder_weights(encoder, name, path)
    expected = reference.segformer(image, output_hidden_states=True).hidden_states
    assert largest_difference(encoder(image), expected) < 1e-4


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b3"])
@torch.no_grad()
def test_agrees_with_the_framework(name, image, tmp_path, monkeypatch):
    reference = nvidia(name, monkeypatch)
    torch.save(reference.state_dict(), tmp_path / "mit.pth")
    encoder = build_encoder(name).eval()
    load_encoder_weights(encoder, name, str(tmp_path / "mit.pth"))
    expected = []
    for norm in (reference.norm1, reference.norm2, reference.norm3, reference.norm4):
        norm.register_forward_hook(lambda module, inputs, output: expected.append(output))
    reference(image, torch.zeros(1, encoder.channels[-1], 2, 3))
    features = [x.flatten(2).transpose(1, 2) for x in encoder(image)]
    assert largest_difference(features, expected) < 1e-4


@pytest.mark.parametrize(
    ("stored", "wanted", "message"),
    [
        ("segformer_b1", "segformer_b2", r"missing \(stages.0.blocks.2"),
        ("segformer_b2", "segformer_b1", r"unexpected \(encoder.block.0.2"),
        ("segformer_b1", "segformer_b0", r"another shape \(stages.0.embed.proj.weight \[64, 3, 7, 7\] for"),
    ],
)
def test_weights_of_another_variant_are_refused(stored, wanted, message, tmp_path):
    hugging_face(stored).save_pretrained(tmp_path)
    with pytest.raises(DiffIMLError, match=message):
        load_encoder_weights(build_encoder(wanted), wanted, tmp_path / "model.safetensors")


def test_an_unknown_layout_names_the_first_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(DiffIMLError, match=rf"{path} is neither .* first tensors are conv1.weight"):
        load_encoder_weights(build_encoder("segformer_b0"), "segformer_b0", path)


def names_of_efficientnet_pytorch(repeats: list[int]) -> list[str]:
    """The names of its tensors in order, which is timm's order too."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def layer(convolution: str, bn: str) -> list[str]:
        return [f"{convolution}.weight", *(f"{bn}.{leaf}" for leaf in norm)]

    names = layer("_conv_stem", "_bn0")
    for number in range(sum(repeats)):
        block = f"_blocks.{number}."
        names += layer(f"{block}_expand_conv", f"{block}_bn0") if number else []
        names += layer(f"{block}_depthwise_conv", f"{block}_bn1") + layer(f"{block}_project_conv", f"{block}_bn2")
    return [*names, *layer("_conv_head", "_bn1"), "_fc.weight", "_fc.bias"]


def test_an_efficientnet_as_packages_carry_it(image, tmp_path):
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    names = names_of_efficientnet_pytorch([1, 2, 2, 3, 3, 4, 1])
    torch.save(dict(zip(names, classifier.state_dict().values(), strict=True)), tmp_path / "lite.pth")
    encoder = build_encoder("tf_efficientnet_lite0").eval()
    load_encoder_weights(encoder, "tf_efficientnet_lite0", tmp_path / "lite.pth")
    stages = classifier.forward_intermediates(image * encoder.scale + encoder.shift, intermediates_only=True)
    with torch.no_grad():
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(encoder(image), stages[-4:], strict=True))


def test_none_keeps_the_weights():
    encoder = build_encoder("segformer_b0")
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    load_encoder_weights(encoder, "segformer_b0", "none")
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


class Hub:
    """Stands in for the hub: holds `files`, or is out of reach."""

    def __init__(self, files=(), offline=False):
        self.files, self.offline, self.asked = dict(files), offline, []

    def __call__(self, repository, file, **_):
        self.asked.append(f"{repository}/{file}")
        if self.offline:
            raise LocalEntryNotFoundError("offline")
        if file not in self.files:
            raise EntryNotFoundError(file)
        return str(self.files[file])

    def put_in_place(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self)
        size = SimpleNamespace(size=1)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_: size)
        return self


@pytest.mark.parametrize(
    "files", [["model.safetensors"], ["pytorch_model.bin"], ["model.safetensors", "pytorch_model.bin"]]
)
def test_imagenet_weights_come_from_the_hub_safetensors_first(files, tmp_path, monkeypatch):
    hugging_face("segformer_b0").save_pretrained(tmp_path)
    torch.save(safetensors.torch.load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    hub = Hub({file: tmp_path / file for file in files}).put_in_place(monkeypatch)
    encoder = build_encoder("segformer_b0")
    assert hub.asked == []
    load_encoder_weights(encoder, "segformer_b0", "imagenet")
    assert hub.asked[0] == "nvidia/mit-b0/model.safetensors" and hub.asked[-1] == f"nvidia/mit-b0/{files[0]}"
    published = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(encoder.stages[2].norm.weight, published["segformer.encoder.layer_norm.2.weight"])


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("segformer_b3", "nvidia/mit-b3"),
        ("resnet50", "timm/resnet50.a1_in1k"),
        ("vit_small_patch16_dinov3", "timm/vit_small_patch16_dinov3.lvd1689m"),
    ],
)
def test_offline_says_what_to_fetch_and_where_to_put_it(name, repository, monkeypatch):
    Hub(offline=True).put_in_place(monkeypatch)
    with pytest.raises(DiffIMLError) as error:
        load_encoder_weights(build_encoder(name), name, "imagenet")
    assert f"https://huggingface.co/{repository}/resolve/main/model.safetensors" in str(error.value)
    assert "--encoder_weights PATH" in str(error.value)


def test_a_model_that_timm_never_published():
    with pytest.raises(DiffIMLError, match="timm publishes no weights of 'regnetz_005'"):
        load_encoder_weights(nn.Identity(), "regnetz_005", "imagenet")


TIMM = ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "tf_efficientnet_lite0"]


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_weights_of_a_timm_classifier(name, tmp_path, monkeypatch):
    classifier = randomise(timm.create_model(name, pretrained=False))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(classifier.state_dict(), path)
    Hub({"model.safetensors": path}).put_in_place(monkeypatch)
    image = torch.randn(1, 3, 64, 64)
    pixels = image * channels(IMAGENET_DEFAULT_STD) + channels(IMAGENET_DEFAULT_MEAN)
    own = (pixels - channels(classifier.pretrained_cfg["mean"])) / channels(classifier.pretrained_cfg["std"])
    expected = classifier.forward_intermediates(own, intermediates_only=True)[-1]
    for source in ("imagenet", path):
        encoder = build_encoder(name).eval()
        assert not torch.allclose(encoder(image)[-1], expected, atol=1e-4)
        load_encoder_weights(encoder, name, source)
        assert torch.allclose(encoder(image)[-1], expected, atol=1e-4)


@torch.no_grad()
def test_weights_of_a_plain_vit(tmp_path):
    classifier = randomise(timm.create_model("test_vit2"))  # which averages, then normalises
    safetensors.torch.save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    image, encoder = torch.randn(1, 3, 64, 96), build_encoder("test_vit2").eval()
    load_encoder_weights(encoder, "test_vit2", tmp_path / "model.safetensors")
    tokens = classifier.forward_features(image * encoder.scale + encoder.shift)[:, classifier.num_prefix_tokens :]
    expected = classifier.fc_norm(tokens).mT.unflatten(2, (4, 6))
    assert torch.allclose(encoder(image)[2], expected, atol=1e-5)


def test_patches_of_14_pixels_are_resampled_to_16(tmp_path):
    published = timm.create_model("test_vit", patch_size=14, img_size=168)
    safetensors.torch.save_file(published.state_dict(), tmp_path / "model.safetensors")
    encoder = build_encoder("test_vit")
    load_encoder_weights(encoder, "test_vit", tmp_path / "model.safetensors")
    assert torch.equal(encoder.net.blocks[5].attn.qkv.weight, published.blocks[5].attn.qkv.weight)
    loaded, stored = encoder.net.patch_embed.proj.weight, published.patch_embed.proj.weight
    assert loaded.shape[-1] == 16 and torch.allclose(loaded, resample_patch_embed(stored, [16, 16]), atol=1e-6)


def channels(values):
    return torch.tensor(values).view(1, 3, 1, 1)


def test_filters_over_noise_residuals_stand_beside_the_published_ones(tmp_path):
    classifier = timm.create_model("mobilenetv3_small_050", pretrained=False)
    safetensors.torch.save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    encoder = build_encoder("srm_mobilenetv3_small_050")
    before = encoder.net.conv_stem.weight.detach().clone()
    load_encoder_weights(encoder, "srm_mobilenetv3_small_050", tmp_path / "model.safetensors")
    assert torch.equal(encoder.net.conv_stem.weight[:, :3], classifier.conv_stem.weight)
    assert torch.equal(encoder.net.conv_stem.weight[:, 3:], before[:, 3:])
    assert torch.equal(encoder.net.blocks[0][0].conv_dw.weight, classifier.blocks[0][0].conv_dw.weight)


@pytest.mark.parametrize("name", TIMM)
def test_weights_of_another_timm_model_are_refused(name, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    with pytest.raises(DiffIMLError, match=f"{path} does not hold .* timm model '{name}'") as error:
        load_encoder_weights(build_encoder(name), name, path)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DiffIMLError, match=r"cannot read .*nowhere\.pth: No such file"):
        load_encoder_weights(build_encoder("segformer_b0"), "segformer_b0", tmp_path / "nowhere.pth")


def test_xavier_draws_every_weight_from_glorots_range():
    encoder = build_encoder("segformer_b0")
    load_encoder_weights(encoder, "segformer_b0", "xavier")
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound and not module.bias.any()
