"""Attention heads that are taken out: dense layers become smaller, and the configuration remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxmodels.capability import Capability
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.nn.module import is_abstract
from flaxmodels.surgery.resize import placed_like


class HeadPruningMixin(Capability):
    """Takes attention heads out of a model.

    Attributes:
        prunable_layers: where a base model has the `Stack` of layers whose heads can be pruned, attributes joined by
            "."; "" if they cannot. Such a layer has `head_axes`, from the path of each dense layer to the axis of its
            kernel that counts heads and how many groups of all heads are along it; and `set_num_heads`.
    """

    prunable_layers: ClassVar[str] = ""

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Take heads out of the self-attention of layers of the base model, as Michel et al. 2019 (arXiv 1905.10650).

        `config.pruned_heads` remembers them, so that a saved model is loaded with the heads that are left. Other code
        must read it too: transformers does up to 4.57.

        Args:
            heads_to_prune: for each layer the heads, by the numbers that they had at first; those that were taken out
                before are passed over.

        Raises:
            NotImplementedError: models of this class cannot be pruned.
            FlaxModelsError: layers are stacked by `scan_layers=True`.
            ConfigError: a layer or a head that there is not, or all heads of a layer.
        """
        base, config = self.base_model, self.base_model.config
        if not base.prunable_layers:
            raise NotImplementedError(
                f"{type(base).__name__}: its heads cannot be pruned, as those of BERT, GPT-2 and ViT can"
            )
        before = pruned_heads(config)
        wanted = {int(layer): set(heads) for layer, heads in heads_to_prune.items()}
        after = {layer: before.get(layer, set()) | wanted.get(layer, set()) for layer in before | wanted}
        _check(config, after)
        _prune(base, before, after)
        config.pruned_heads = {layer: sorted(heads) for layer, heads in sorted(after.items())}

    def finish_setup(self) -> None:
        """As for all; a base model is without the heads that the configuration says were pruned."""
        super().finish_setup()
        pruned = pruned_heads(self.config)
        if any(pruned.values()) and self.base_model is self:
            if not self.prunable_layers:
                raise ConfigError(f"pruned_heads: heads of {type(self).__name__} cannot be pruned")
            _check(self.config, pruned)
            _prune(self, {}, pruned)


def pruned_heads(config: PreTrainedConfig) -> dict[int, set[int]]:
    """The heads that were pruned, by layer; in files layers are strings."""
    return {int(layer): set(heads) for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}


def _check(config: Any, pruned: Mapping[int, set[int]]) -> None:
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    wrong = [f"layer {layer}: there are {layers}" for layer in sorted(pruned) if not 0 <= layer < layers]
    for layer, numbers in sorted(pruned.items()):
        if unknown := sorted(number for number in numbers if not 0 <= number < heads):
            wrong.append(f"layer {layer}, heads {', '.join(map(str, unknown))}: there are {heads}")
        elif len(numbers) == heads:
            wrong.append(f"layer {layer}: all of its {heads} heads, of which one must stay")
    if wrong:
        raise ConfigError("heads that cannot be pruned:\n" + "\n".join(f"  - {line}" for line in wrong))


def _prune(base: Any, before: Mapping[int, set[int]], after: Mapping[int, set[int]]) -> None:
    stack = attrgetter(base.prunable_layers)(base)
    if stack.num_stacked:
        raise FlaxModelsError("heads of stacked layers cannot be pruned: load the model with scan_layers=False")
    for layer, pruned in after.items():
        known = [head for head in range(base.config.num_attention_heads) if head not in before.get(layer, ())]
        kept = np.flatnonzero([head not in pruned for head in known])
        if len(kept) < len(known):
            _keep(stack[layer], kept, len(known))


def _keep(layer: Any, kept: np.ndarray, heads: int) -> None:
    """Keep some of the `heads` of a layer, by their positions."""
    for path, (axis, groups) in layer.head_axes.items():
        dense = attrgetter(path)(layer)
        _select(dense.kernel, axis, groups, heads, kept)
        if axis == 1 and dense.bias is not None:
            _select(dense.bias, 0, groups, heads, kept)
    layer.set_num_heads(len(kept))


def _select(parameter: nnx.Param, axis: int, groups: int, heads: int, kept: np.ndarray) -> None:
    raw = parameter.get_raw_value()
    size = raw.shape[axis] // (groups * heads)
    features = np.arange(raw.shape[axis]).reshape(groups, heads, size)[:, kept].reshape(-1)
    if is_abstract(parameter):
        shape = (*raw.shape[:axis], len(features), *raw.shape[axis + 1 :])
        parameter.set_raw_value(jax.ShapeDtypeStruct(shape, raw.dtype))
    else:
        value = parameter.get_value()
        parameter.set_value(placed_like(value, jnp.take(value, features, axis), "pruned heads"))
