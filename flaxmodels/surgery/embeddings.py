"""The modules that embed the input of a model and project its output, and the biases of that projection."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from flaxmodels.capability import Capability
from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.dense import Linear, TiedLinear
from flaxmodels.nn.embedding import Embedding
from flaxmodels.surgery.modules import path_of, replace_everywhere
from flaxmodels.surgery.resize import resize_token_embeddings
from flaxmodels.surgery.ties import adjust_biases

OUTSIDE_THE_HEAD = "final_logits_bias"
"""What BART and its like call the bias of their logits, which the model itself owns."""


class EmbeddingAccessMixin(Capability):
    """Finds, replaces and resizes the embeddings of a model.

    Attributes:
        input_embeddings: where a base model has the module that embeds the input, its attributes joined by ".".
        position_embeddings: where it has its table of positions; "" if they are computed, or there are none.
    """

    input_embeddings: ClassVar[str] = ""
    position_embeddings: ClassVar[str] = ""

    def get_input_embeddings(self) -> Any:
        """The module that embeds the input.

        Raises:
            NotImplementedError: no module does.
        """
        owner = self.base_model
        if not owner.input_embeddings:
            raise NotImplementedError(f"{type(self).__name__} has no input embeddings")
        return attrgetter(owner.input_embeddings)(owner)

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the module that embeds the input, wherever the model has it; what is tied to it follows.

        Args:
            value: of the class of the present one. A table may have more or fewer rows; the configuration keeps its
                `vocab_size`, which `resize_token_embeddings` changes too.

        Raises:
            NotImplementedError: no module embeds the input.
            TypeError: `value` is of another class.
            FlaxModelsError: its parameters have other names, or other sizes in anything but the number of rows.
        """
        old = self.get_input_embeddings()
        _check(self, "input", old, value)
        if value is not old:
            if self.base_model is not self:
                self.base_model.set_input_embeddings(value)
            replace_everywhere(self, old, value)
            for name, variable in _variables(old).items():
                replace_everywhere(self, variable, getattr(value, name))
            adjust_biases(self)

    def get_output_embeddings(self) -> Any:
        """The module that projects to the vocabulary, or `None`."""
        return None

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the module that projects to the vocabulary. It is tied to the input embeddings only if `value` is.

        Args:
            value: a `Linear` or `TiedLinear` from as many features. `None` where there is none, for nothing.

        Raises:
            NotImplementedError: no module projects to the vocabulary.
            TypeError: `value` is of another class.
            FlaxModelsError: it projects from another number of features.
        """
        old = self.get_output_embeddings()
        if old is None and value is None:
            return
        if old is None:
            raise NotImplementedError(f"{type(self).__name__} has no output embeddings")
        if not isinstance(value, Linear | TiedLinear):
            raise TypeError(f"output embeddings: expected a Linear or a TiedLinear, got {type(value).__name__}")
        if (found := _features(value)) != (expected := _features(old)):
            raise FlaxModelsError(f"output embeddings: expected a projection from {expected} features, got {found}")
        replace_everywhere(self, old, value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Embedding:
        """Give the model another number of tokens: the table of its input, what is tied to it, the projection to the
        vocabulary and its biases, and the configuration.

        New rows come at the end; fewer tokens take rows off the end. Values keep their dtype and sharding. A padding
        token that is taken off is taken from the configuration too.

        Args:
            new_num_tokens: `None` for as many as there are.
            pad_to_multiple_of: the number is rounded up to a multiple of it: 128 suits GPUs and TPUs, and the number of
                devices that a table is sharded over.
            mean_resizing: whether new rows of a table are samples of the normal distribution that has the mean of the
                old ones and a billionth of their covariance, or the mean where that is singular, and new values of a
                bias likewise. So predictions of old tokens hardly change (https://nlp.stanford.edu/~johnhew/vocab-
                expansion.html). If false they are initialised as those of a new model, from `seed`.

        Returns:
            The input embeddings; unchanged if neither number is given.

        Raises:
            NotImplementedError: the model does not read tokens.
            FlaxModelsError: a number that is not a positive integer, or a model whose table is not sized by its
                configuration.
        """
        resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing=mean_resizing)
        return self.get_input_embeddings()

    # ---- the names of the TensorFlow classes

    def get_lm_head(self) -> Any:
        """The head that predicts tokens: the module with the projection to the vocabulary and what comes before it, or
        the projection itself where it is a part of the model; `None` without one.
        """
        projection = self.get_output_embeddings()
        if projection is None:
            return None
        *owner, _ = path_of(self, projection)
        return attrgetter(".".join(owner))(self) if owner else projection

    def get_output_layer_with_bias(self) -> Any:
        """The module that owns the biases of `get_bias`; `None` without any."""
        return self if hasattr(self, OUTSIDE_THE_HEAD) else None if self.get_bias() is None else self._biased_layer()

    def get_bias(self) -> dict[str, nnx.Param] | None:
        """The bias of the logits, `[vocab]` or `[1, vocab]`, by its name in the module that owns it; `None` without
        one.
        """
        if (outside := getattr(self, OUTSIDE_THE_HEAD, None)) is not None:
            return {OUTSIDE_THE_HEAD: outside}
        bias = getattr(self.get_output_embeddings(), "bias", None)
        return None if bias is None else {"bias": bias}

    def set_bias(self, value: Mapping[str, Any]) -> None:
        """Set the biases that `get_bias` gives, to arrays or parameters of their shapes.

        Raises:
            FlaxModelsError: other names, or another shape: `resize_token_embeddings` changes the number of tokens.
        """
        own = self.get_bias() or {}
        if own.keys() != value.keys():
            names = (", ".join(sorted(each)) for each in (own, value))
            expected, found = (each or "nothing" for each in names)
            raise FlaxModelsError(f"set_bias: expected what get_bias gives, {expected}, got {found}")
        given = {
            name: jnp.asarray(each[...] if isinstance(each, nnx.Variable) else each) for name, each in value.items()
        }
        for name, array in given.items():
            if array.shape != (shape := own[name].get_raw_value().shape):
                raise FlaxModelsError(f"set_bias: {name}: expected the shape {shape}, got {array.shape}")
        for name, array in given.items():
            own[name].set_value(array.astype(own[name].get_raw_value().dtype))

    def get_prefix_bias_name(self) -> str | None:
        """The "/"-joined path of the module that owns the bias, after the name of the model's class; `None` without a
        bias.
        """
        layer = self.get_output_layer_with_bias()
        return None if layer is None else "/".join((type(self).__name__, *path_of(self, layer)))

    def _biased_layer(self) -> Any:
        """The head, where it owns the bias as the TensorFlow classes do, or else the projection."""
        head, projection = self.get_lm_head(), self.get_output_embeddings()
        return head if getattr(head, "bias", None) is projection.bias else projection


def _variables(module: Any) -> dict[str, nnx.Variable]:
    return {name: value for name, value in vars(module).items() if isinstance(value, nnx.Variable)}


def _check(model: Any, side: str, old: Any, value: Any) -> None:
    if not isinstance(value, type(old)):
        raise TypeError(f"{side} embeddings: expected a module of {type(old).__name__}, got {type(value).__name__}")
    shapes = [
        {name: each.get_raw_value().shape for name, each in _variables(module).items()} for module in (old, value)
    ]
    rows_differ = isinstance(old, Embedding)
    fixed = [{name: shape[1:] if rows_differ else shape for name, shape in each.items()} for each in shapes]
    if fixed[0] != fixed[1]:
        raise FlaxModelsError(
            f"{side} embeddings of {type(model).__name__}: expected parameters {shapes[0]}, got {shapes[1]}"
        )


def _features(projection: Any) -> int:
    """How many features a projection to the vocabulary reads."""
    if isinstance(projection, TiedLinear):
        return projection.embedding.get_raw_value().shape[1]
    return projection.kernel.get_raw_value().shape[0]
