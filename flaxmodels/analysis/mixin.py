"""What a model says of its costs, and the masks that it makes for scripts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flaxmodels import parameters
from flaxmodels.analysis import masks, memory
from flaxmodels.capability import Capability
from flaxmodels.policy import to_dtype

logger = logging.getLogger("flaxmodels")


class AnalysisMixin(Capability):
    """Counts tokens, operations and memory; makes masks for modules of a user's own.

    Attributes:
        has_memory_hooks: whether calls measure the memory that each module takes.
    """

    main_input_name: ClassVar[str]
    has_memory_hooks: bool = False

    # ---- costs

    def estimate_tokens(self, input_dict: Mapping[str, Any]) -> int:
        """How many elements the main input has, `input_dict[main_input_name]`; 0, and a warning, without it."""
        if self.main_input_name in input_dict:
            return int(np.prod(np.shape(input_dict[self.main_input_name])))
        _warn_once(
            "Could not estimate the number of tokens of the input, floating-point operations will not be computed"
        )
        return 0

    def floating_point_ops(self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True) -> int:
        """Floating-point operations of the forward and backward passes of a batch (arXiv 2001.08361, section 2.1).

        It is 6 for each token and parameter, which leaves out what grows with the square of the length, and counts
        parameters that several layers share once.

        Args:
            input_dict: the inputs by name; arrays, or anything with a shape.
            exclude_embeddings: whether to leave out the parameters of embeddings.
        """
        count = parameters.count(self, exclude_embeddings=exclude_embeddings)
        return 6 * self.estimate_tokens(input_dict) * count

    def add_memory_hooks(self) -> None:
        """Let every call add to `mem_rss_diff` of each module how many bytes it took while the module was called.

        Bytes are those in use on the accelerator, or on a CPU those of the process, its resident set. Calls are not
        compiled then, and so are slow. Layers that `scan_layers` stacks, or that are rematerialised in a backward
        pass, are called while others are traced, and count in the stack that holds them alone.

        Raises:
            FlaxModelsError: on a CPU, psutil is not installed.
        """
        memory.used_bytes()
        memory.reset(self)
        self.has_memory_hooks = True

    def reset_memory_hooks_state(self) -> None:
        """Set `mem_rss_diff` of every module to 0."""
        memory.reset(self)

    def remove_memory_hooks(self) -> None:
        """Compile calls again, and measure nothing."""
        self.has_memory_hooks = False

    # ---- masks

    def invert_attention_mask(self, encoder_attention_mask: Any) -> jax.Array:
        """A mask to add to scores: 0 where `encoder_attention_mask` is 1, and the least finite number where it is 0.

        Args:
            encoder_attention_mask: `[batch, kv_len]` or `[batch, q_len, kv_len]`.

        Returns:
            `[batch, 1, 1, kv_len]` or `[batch, 1, q_len, kv_len]`, in `dtype`.

        Raises:
            FlaxModelsError: a mask of other axes.
        """
        mask = jnp.asarray(encoder_attention_mask)
        return masks.inverted(masks.over_heads(mask, "encoder_attention_mask"), self.policy.dtype)

    @staticmethod
    def create_extended_attention_mask_for_decoder(
        input_shape: Sequence[int], attention_mask: Any, device: Any = None
    ) -> jax.Array:
        """Which keys each query sees: those that `attention_mask` has, and none after itself.

        Args:
            input_shape: batch and number of queries, which are the last ones.
            attention_mask: `[batch, kv_len]` of ones and zeros.
            device: not used: the result is where the mask is.

        Returns:
            `[batch, 1, q_len, kv_len]` of ones and zeros, in the dtype of the mask.
        """
        return masks.causal(input_shape, jnp.asarray(attention_mask))

    def get_extended_attention_mask(
        self, attention_mask: Any, input_shape: Sequence[int], device: Any = None, dtype: Any = None
    ) -> jax.Array:
        """A mask to add to scores, in which nothing after a query is seen if `config.is_decoder`.

        Args:
            attention_mask: `[batch, kv_len]` of ones and zeros; or `[batch, q_len, kv_len]`, which is taken as it is.
            input_shape: batch and number of queries.
            device: not used: the result is where the mask is.
            dtype: of the result; that of the computation by default.

        Returns:
            `[batch, 1, 1 or q_len, kv_len]`: 0 where a query may look, else the least finite number of `dtype`.

        Raises:
            FlaxModelsError: a mask of other axes.
        """
        mask = jnp.asarray(attention_mask)
        if mask.ndim == 2 and self.config.is_decoder:
            mask = masks.causal(input_shape, mask)
        else:
            mask = masks.over_heads(mask, "attention_mask")
        return masks.inverted(mask, self.policy.dtype if dtype is None else to_dtype(dtype))

    def get_head_mask(
        self, head_mask: Any, num_hidden_layers: int, is_attention_chunked: bool = False
    ) -> jax.Array | list[None]:
        """A mask of heads for each layer.

        Args:
            head_mask: `[heads]` or `[layers, heads]`, 1 for those that are kept; `None` for all.
            num_hidden_layers: number of layers.
            is_attention_chunked: whether scores have one more axis.

        Returns:
            `[layers, 1, heads, 1, 1]`, with one more axis if `is_attention_chunked`, in `dtype`; a list of `None` for
            `None`.

        Raises:
            FlaxModelsError: a mask of other axes.
        """
        if head_mask is None:
            return [None] * num_hidden_layers
        mask = masks.head_masks(jnp.asarray(head_mask), num_hidden_layers, self.policy.dtype)
        return mask[..., None] if is_attention_chunked else mask

    def warn_if_padding_and_no_attention_mask(self, input_ids: Any, attention_mask: Any) -> None:
        """Log, once a process, that the first or last of `input_ids` are padding and no mask says so.

        Args:
            input_ids: int `[batch, length]`. Inside a trace nothing is known of them, and nothing logged.
            attention_mask: the mask, or `None`.
        """
        config = self.config
        padding = config.pad_token_id
        if isinstance(input_ids, Tracer) or attention_mask is not None or padding is None:
            return
        if padding not in np.asarray(input_ids)[:, [-1, 0]]:
            return
        ends = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "sep")]
        doubt = _DOUBT.format(padding, *ends) if any(end == padding for end in ends) else ""
        _warn_once(_NO_MASK + doubt)


_NO_TOKENS = "Could not estimate the number of tokens of the input, floating-point operations will not be computed"
_NO_MASK = (
    "We strongly recommend passing in an `attention_mask` since your input_ids may be padded. See "
    "https://huggingface.co/docs/transformers/troubleshooting#incorrect-output-when-padding-tokens-arent-masked."
)
_DOUBT = (
    "\nYou may ignore this warning if your `pad_token_id` ({}) is identical to the `bos_token_id` ({}), `eos_token_id` "
    "({}), or the `sep_token_id` ({}), and your input is not padded."
)


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)
