"""Parameters that several modules share: which the configuration says, and making them so."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmodels.capability import Capability
from flaxmodels.errors import ConfigError
from flaxmodels.nn.dense import TiedLinear
from flaxmodels.nn.leaves import Leaf, iter_leaves, split_shared
from flaxmodels.nn.module import is_abstract
from flaxmodels.nn.stack import Stack
from flaxmodels.surgery.modules import iter_modules

logger = logging.getLogger("flaxmodels")


class TiedWeightsMixin(Capability):
    """Ties parameters, and says which are tied. A tied parameter is one `nnx.Param` in several modules."""

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """From the torch names of parameters that are tied now to those of what they are tied to."""
        return split_shared(self)[1]

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """From the torch names of parameters that the configuration ties to those of what they are tied to.

        Args:
            all_submodels: also those that are tied inside of a model that is a part of this one.
        """
        described = describe(self)
        ties = split_shared(described)[1]
        parts = [
            ".".join((*path, ""))
            for path, module in iter_modules(described)
            if path and not all_submodels and isinstance(module, Capability)
        ]
        return {
            target: source
            for target, source in ties.items()
            if not any(target.startswith(part) and source.startswith(part) for part in parts)
        }

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Tie what the configuration says, as after a change of `config.tie_word_embeddings`. Nothing is untied.

        The value is that of the source, `get_expanded_tied_weights_keys`' second name. A bias of a tied projection is
        filled up with zeros, or cut, to the number of tokens.

        Args:
            missing_keys: the torch names of the parameters that a checkpoint lacked. The value is then that which it
                had; where it had both and they differ, they are not tied, which is logged. Names that need not be
                missing any more are taken out.
            recompute_mapping: if false, nothing but what is tied already is looked at.
        """
        if recompute_mapping:
            described = describe(self)
            for target, source in split_shared(described)[1].items():
                _tie(self, described, target, source, missing_keys)
        elif missing_keys is not None:
            missing_keys -= {
                target for target, source in self.all_tied_weights_keys.items() if source not in missing_keys
            }
        adjust_biases(self)

    def mark_tied_weights_as_initialized(self, loading_info: Any) -> None:
        """Take the names of tied parameters out of `loading_info.missing_keys`, a list or set, where another of their
        names is not missing: they have that value, and are not initialised.
        """
        missing = loading_info.missing_keys
        for target, source in self.all_tied_weights_keys.items():
            for name, other in ((target, source), (source, target)):
                if name in missing and other not in missing:
                    missing.remove(name)

    def tie_embeddings_and_encoder_decoder(self) -> None:
        """Tie the embeddings, and the decoder to the encoder where the configuration says `tie_encoder_decoder`."""
        self.tie_weights()

    def finish_setup(self) -> None:
        """As for all; a decoder has the parameters of its encoder if the configuration says `tie_encoder_decoder`."""
        super().finish_setup()
        stacks = vars(self).get("encoder"), vars(self).get("decoder")
        if all(stacks) and getattr(self.config, "tie_encoder_decoder", False):
            _tie_stacks(*stacks)


def describe(model: Any, config: Any = None) -> Any:
    """A model of that class without values, as the configuration makes it: `config`, or that of `model`."""
    return type(model).abstract(model.config if config is None else config, policy=model.policy)


def adjust_biases(model: Any) -> None:
    """Let the bias of every tied projection have a value for each token: zeros are added, or the last taken off."""
    for _, module in iter_modules(model):
        if isinstance(module, TiedLinear) and module.bias is not None:
            rows, bias = module.embedding.get_raw_value().shape[0], module.bias.get_raw_value()
            if bias.shape[0] == rows:
                continue
            if is_abstract(module.bias):
                module.bias.set_raw_value(jax.ShapeDtypeStruct((rows,), bias.dtype))
            else:
                module.bias.set_value(jnp.pad(bias[:rows], (0, max(0, rows - bias.shape[0]))))


# ---- one tie


def _places(module: nnx.Module) -> dict[str, Leaf]:
    """Every parameter in each of its places, by its torch names."""
    return {name: leaf for leaf in iter_leaves(module) for name in leaf.torch_names}


def _tie(model: Any, described: Any, target: str, source: str, missing: set[str] | None) -> None:
    places = _places(model)
    here, there = places.get(target), places.get(source)
    if here is None or there is None:  # a part that this model was made without
        return
    if here.variable is not there.variable:
        if missing is not None and not _take_value(here, there, target, source, missing):
            return
        _share(model, here, there.variable, _places(described)[target])
    if missing is not None and source not in missing:
        missing.discard(target)


def _take_value(here: Leaf, there: Leaf, target: str, source: str, missing: set[str]) -> bool:
    """Let the source have the value of a checkpoint; false if the two may not be tied."""
    if target in missing:
        if source in missing:
            logger.warning("%s and %s, which are tied, are both missing in the checkpoint", source, target)
        return True
    value = _like(here, there)
    if source in missing:
        there.variable.set_value(value)
        missing.discard(source)
        return True
    same = value.shape == there.variable.get_value().shape and bool(jnp.array_equal(value, there.variable.get_value()))
    if not same:
        logger.warning(
            "The configuration ties %s to %s, but the checkpoint holds other values for it: it is not tied. Set "
            "config.tie_word_embeddings=False.",
            target,
            source,
        )
    return same


def _like(here: Leaf, there: Leaf) -> jax.Array:
    """The value of one parameter in the layout of another."""
    value = here.variable.get_value()
    return value if here.path[-1] == there.path[-1] else jnp.swapaxes(value, -1, -2)


def _share(model: Any, here: Leaf, variable: nnx.Variable, described: Leaf) -> None:
    """Put `variable` in place of a parameter, in a module of the kind that a tied one is in."""
    name = described.path[-1]
    if name in vars(here.owner):
        setattr(here.owner, name, variable)
        return
    module = copy.copy(described.owner)
    own = {attribute: value for attribute, value in vars(here.owner).items() if isinstance(value, nnx.Variable)}
    for attribute, value in list(vars(module).items()):
        if isinstance(value, nnx.Variable) or attribute in own:
            setattr(module, attribute, own.get(attribute))
    setattr(module, name, variable)
    owner = model
    for step in here.path[:-2]:
        owner = getattr(owner, step)
    setattr(owner, here.path[-2], module)


# ---- a decoder that is its encoder


def _tie_stacks(encoder: Any, decoder: Any) -> None:
    """Share all parameters that both have: in layers those of the same role, elsewhere those of the same path."""
    for name, module in list(vars(decoder).items()):
        other = vars(encoder).get(name)
        if isinstance(module, Stack) and isinstance(other, Stack):
            if (module.count, module.num_stacked) != (other.count, other.num_stacked):
                raise ConfigError(
                    f"tie_encoder_decoder=True needs as many layers of the decoder, {module.count}, as of the encoder, "
                    f"{other.count}"
                )
            for own, theirs in zip(module.blocks(), other.blocks(), strict=True):
                _share_parameters(theirs, own, _roles(theirs, own))
        elif isinstance(module, nnx.Module) and isinstance(other, nnx.Module):
            _share_parameters(other, module, {})


def _roles(encoder_layer: Any, decoder_layer: Any) -> Mapping[str, str]:
    """From the path of each part of a layer of the encoder to that of the same role in the decoder."""
    roles = [role for role in encoder_layer.names if not role.startswith("cross_")]
    return {encoder_layer.path(role): decoder_layer.path(role) for role in roles}


def _share_parameters(source: Any, target: Any, paths: Mapping[str, str]) -> None:
    for leaf in list(iter_leaves(source)):
        path = ".".join(leaf.path)
        whole = next(
            (path.replace(own, other, 1) for own, other in paths.items() if f"{path}.".startswith(f"{own}.")), path
        )
        owner, (*steps, name) = target, whole.split(".")
        for step in steps:
            owner = getattr(owner, step)
        if getattr(owner, name).get_raw_value().shape != (shape := leaf.variable.get_raw_value().shape):
            raise ConfigError(
                f"tie_encoder_decoder=True: {whole} of the decoder is {getattr(owner, name).get_raw_value().shape}, "
                f"{path} of the encoder {shape}"
            )
        setattr(owner, name, leaf.variable)
