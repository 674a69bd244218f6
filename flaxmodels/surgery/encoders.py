"""The encoders and the decoder in a model, under the names that architectures have for them."""

from __future__ import annotations

from typing import Any, Literal

from flaxmodels.capability import Capability
from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.module import Module

Modality = Literal["image", "video", "audio"]

_IMAGES = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower")
_ENCODERS: dict[str | None, tuple[str, ...]] = {
    None: ("text_encoder", "encoder"),
    "image": _IMAGES,
    "video": _IMAGES,
    "audio": ("audio_tower", "audio_encoder", "speech_encoder"),
}
_DECODERS = ("language_model", "text_model", "decoder", "text_decoder")


class EncoderDecoderAccessMixin(Capability):
    """Finds and replaces the encoders and the decoder of a model."""

    def get_encoder(self, modality: Modality | None = None) -> Any:
        """The encoder: of this model, else of its base model; the model itself if neither has one.

        Args:
            modality: that of images, video or audio in place of that of text.

        Raises:
            FlaxModelsError: another modality.
        """
        return _find(self, _encoder_names(modality))

    def set_encoder(self, encoder: Module, modality: Modality | None = None) -> None:
        """Replace what `get_encoder` gives. Parameters that the configuration ties are tied again.

        Raises:
            FlaxModelsError: another modality.
            TypeError: `encoder` is no module.
            NotImplementedError: there is none in the model.
        """
        _replace(self, _encoder_names(modality), encoder, "encoder")

    def get_decoder(self) -> Any:
        """The decoder, or in models of text and images what reads the text: of this model, else of its base model; the
        model that has none is one itself.
        """
        return _find(self, _DECODERS)

    def set_decoder(self, decoder: Module) -> None:
        """Replace what `get_decoder` gives. Parameters that the configuration ties are tied again.

        Raises:
            TypeError: `decoder` is no module.
            NotImplementedError: there is none in the model.
        """
        _replace(self, _DECODERS, decoder, "decoder")


def _encoder_names(modality: Any) -> tuple[str, ...]:
    if modality not in _ENCODERS:
        raise FlaxModelsError(f"modality={modality!r}: expected 'image', 'video', 'audio', or None for text")
    return _ENCODERS[modality]


def _owner(model: Any, names: tuple[str, ...]) -> tuple[Any, str] | None:
    """The model that has one of the attributes, and which; `None` if neither `model` nor its base model has any."""
    for owner in dict.fromkeys((model, model.base_model)):
        for name in names:
            if isinstance(vars(owner).get(name), Module):
                return owner, name
    return None


def _find(model: Any, names: tuple[str, ...]) -> Any:
    found = _owner(model, names)
    if found is None:
        return model.base_model if names is _DECODERS else model
    return getattr(*found)


def _replace(model: Any, names: tuple[str, ...], module: Any, what: str) -> None:
    if not isinstance(module, Module):
        raise TypeError(f"set_{what}: expected a module, got {type(module).__name__}")
    found = _owner(model, names)
    if found is None:
        raise NotImplementedError(f"{type(model).__name__} has no {what}: it has none of {', '.join(names)}")
    setattr(*found, module)
    model.tie_weights()
