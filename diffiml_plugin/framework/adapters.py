"""DiffIML and its discriminative counterpart in IMDL-BenCo's registry: between its dictionaries and our tensors."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.method.adaptation import adapt
from diffiml_plugin.method.config import DiffIMLConfig, EncoderConfig, true_or_false
from diffiml_plugin.method.diffiml import DiffIML
from diffiml_plugin.method.edges import edge_map
from diffiml_plugin.method.encoders import build_encoder
from diffiml_plugin.method.protocols import ConditionEncoder
from diffiml_plugin.method.segmenter import Segmenter
from diffiml_plugin.weights.codecs import load_codec
from diffiml_plugin.weights.encoders import load_encoder_weights

_Init = TypeVar("_Init", bound=Callable[..., None])


def _with_fields_of(config: type[EncoderConfig]) -> Callable[[_Init], _Init]:
    """Gives a constructor one keyword for each field of `config`: the framework makes a flag of every parameter."""
    settings = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=true_or_false if f.type is bool else f.type,
        )
        for f in fields(config)
    ]

    def decorate(init: _Init) -> _Init:
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        init.__signature__ = inspect.Signature([*own, *settings])  # type: ignore[attr-defined]
        return init

    return decorate


def _make_encoder(config: EncoderConfig, weights: str) -> ConditionEncoder:
    """The condition encoder with its initial weights, of which as much is trained as the settings say."""
    encoder = build_encoder(config.encoder)
    load_encoder_weights(encoder, config.encoder, weights)
    adapt(encoder.backbone, config.freeze_encoder, config.lora)
    return encoder


class DiffIMLModel(nn.Module):
    """DiffIML behind the framework's forward interface.

    Args:
        encoder_weights: none, xavier, imagenet, or a file for the condition encoder.
        codec_weights: default, none, or a file or folder for the latent codec.
        settings: the fields of `DiffIMLConfig`.
    """

    @_with_fields_of(DiffIMLConfig)
    def __init__(self, encoder_weights: str = "none", codec_weights: str = "default", **settings: Any):
        super().__init__()
        config = DiffIMLConfig(**settings)
        encoder = _make_encoder(config, encoder_weights)
        codec = load_codec(config.latent_codec, codec_weights, config.codec_layout)
        self.diffiml = DiffIML(config, encoder, codec)
        self.to(memory_format=torch.channels_last)  # a sixth faster convolutions; fused attention

    def forward(
        self,
        image: Tensor,
        mask: Any = None,
        label: Any = None,
        edge_map: Tensor | None = None,
        edge_mask: Tensor | None = None,
        noise_key: Sequence[str] | None = None,
        noise: Tensor | None = None,
        details: bool = False,
        shape_mask: Tensor | None = None,
        uncertainty: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One training step's loss, or a prediction.

        Args:
            image: [B, 3, H, W], ImageNet-normalised.
            mask, edge_map: [B, 1, H, W] in {0, 1}, any dtype; read in training only.
            edge_mask: the framework's band, [B, 1, H, W] in {0, 1}; in place of `edge_map` with edge_target band.
            noise_key: B strings that decide the sampling noise, as of `files.file_digest`; without them, the values of
                `image` do. Names never do.
            noise: of `DiffIML.draw_noise`, in place of keys.
            shape_mask: [B, 1, H, W], 1 on the real pixels of padded images; nothing is found outside.
            uncertainty: when predicting, add it: [B, 1, H, W] in [0, 0.5].
            details: when predicting, add `uncertainty` [B, 1, H, W] in [0, 0.5] and `visual_image` (edge and denoising
                steps, each [B, 1, H, W] in [0, 1]).

        Returns:
            Training: `backward_loss`, `visual_loss`, `timesteps` [B]. Else: `pred_mask` [B, 1, H, W] in [0, 1] and
            `pred_label` [B] in [0, 1].
        """
        if self.training:
            return self._training_step(image, mask, self._edge_target(edge_map, edge_mask))
        if noise is None and noise_key is None:
            noise_key = [content_key(one) for one in image]
        prediction = self.diffiml.predict(image, noise_key, bool(details), bool(uncertainty), noise).within(shape_mask)
        output: dict[str, Any] = {"pred_mask": prediction.probability, "pred_label": prediction.score}
        if prediction.members is not None:
            output["uncertainty"] = prediction.uncertainty
        if details:
            steps = () if prediction.steps is None else prediction.steps.unbind(1)
            pictures = {f"denoising step {number}": step for number, step in enumerate(steps, start=1)}
            output["visual_image"] = pictures if prediction.edge is None else {"edge": prediction.edge, **pictures}
        return output

    def _edge_target(self, edge_map: Tensor | None, edge_mask: Tensor | None) -> Tensor | None:
        if self.diffiml.config.edge_target == "canny":
            return edge_map
        if edge_mask is None and self.diffiml.config.edge_supervision:
            raise DiffIMLError("edge_target band is drawn by the framework; pass --edge_mask_width, in pixels (7)")
        return edge_mask

    def _training_step(self, image: Tensor, mask: Tensor, edge: Tensor | None) -> dict:
        loss = self.diffiml.decoded_loss if self.diffiml.config.finetune else self.diffiml.training_loss
        losses = loss(image, mask, edge)
        parts = {"mask_loss": losses.mask_loss, "edge_loss": losses.edge_loss}
        return {
            "backward_loss": losses.loss,
            "visual_loss": {"loss": losses.loss, **{key: value for key, value in parts.items() if value is not None}},
            "timesteps": losses.timesteps,
        }


class SegFormerIML(nn.Module):
    """DiffIML's condition encoder under a discriminative head (Table 5), behind the framework's forward interface.

    Args:
        encoder_weights: none, xavier, imagenet, or a file for the condition encoder.
        settings: the fields of `EncoderConfig`.
    """

    @_with_fields_of(EncoderConfig)
    def __init__(self, encoder_weights: str = "none", **settings: Any):
        super().__init__()
        self.segmenter = Segmenter(_make_encoder(EncoderConfig(**settings), encoder_weights))
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        image: Tensor,
        mask: Any = None,
        label: Any = None,
        shape_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As `DiffIMLModel.forward`, from the image alone: there is no noise to key."""
        if self.training:
            loss = self.segmenter.training_loss(image, mask)
            return {"backward_loss": loss, "visual_loss": {"loss": loss}}
        prediction = self.segmenter.predict(image).within(shape_mask)
        return {"pred_mask": prediction.probability, "pred_label": prediction.score}


def method_of(model: nn.Module) -> DiffIML:
    """What a `DiffIMLModel` runs."""
    return cast(DiffIMLModel, model).diffiml


def content_key(image: Tensor) -> str:
    """What decides the noise of an image [3, H, W] whose file is not known: a digest of its values."""
    values = image.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def diffiml_post_func(sample: dict) -> None:
    """Adds the edge map of Eq. 7 to a sample, in the loader's worker: `edge_map` [1, S, S] float32 in {0, 1}."""
    mask = sample["mask"][0].numpy().astype("uint8")
    sample["edge_map"] = torch.from_numpy(edge_map(mask)).float()[None]


def register() -> None:
    """Puts the models and DiffIML's post function into the framework's registries, once.

    A name that another package took first stays with that package, whose users mean its class by it; in our verbs it
    is ours all the same (`models.registry.find_model`).
    """
    from diffiml_plugin.framework.imdlbenco import MODELS, POSTFUNCS  # seconds, which our own models do without

    for name, model in (("DiffIML", DiffIMLModel), ("SegFormerIML", SegFormerIML)):
        if not MODELS.has(name):
            MODELS.register_module(name=name, module=model)
    if MODELS.module_dict["DiffIML"] is DiffIMLModel and not POSTFUNCS.has(diffiml_post_func.__name__):
        POSTFUNCS.register_module(module=diffiml_post_func)
