"""The layer of a transformer (arXiv 1706.03762): attention, and a feed-forward network.

An architecture subclasses `TransformerLayer` and declares where checkpoints have its parts and where its norms are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Literal, Self, TypeAlias

import jax

from flaxmodels.bases.parts import place
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.attention import dot_product_attention, keys_and_values, merge_heads, split_heads
from flaxmodels.nn.cache import LayerCache
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import drop_path, dropout, layer_dropout, split_key
from flaxmodels.nn.initializers import Initializer, constant, normal
from flaxmodels.nn.masks import decoder_mask, padding_mask
from flaxmodels.nn.module import Module, param
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.stack import BlockOutput
from flaxmodels.policy import Policy

Residual: TypeAlias = (
    "staticmethod[[Callable[[jax.Array], jax.Array], jax.Array, Callable[[jax.Array], tuple[Any, ...]]], Any]"
)
"""A function of a norm, hidden states, and a branch of the layer, whose first output is added to them."""


def post_norm(norm: Callable, hidden_states: jax.Array, branch: Callable) -> tuple[Any, ...]:
    """`norm(x + branch(x))` (arXiv 1706.03762), and what else the branch returns."""
    output, *others = branch(hidden_states)
    return norm(hidden_states + output), *others


def pre_norm(norm: Callable, hidden_states: jax.Array, branch: Callable) -> tuple[Any, ...]:
    """`x + branch(norm(x))` (arXiv 2002.04745), and what else the branch returns."""
    output, *others = branch(norm(hidden_states))
    return hidden_states + output, *others


@dataclass(frozen=True)
class DropoutRates:
    """Dropout rates in training.

    Attributes:
        weights: rate of the attention weights.
        attention: rate of what attention adds to the hidden states.
        activation: rate of the activations inside the feed-forward network.
        mlp: rate of what the feed-forward network adds to the hidden states.
        layer: rate at which the layer as a whole is skipped (arXiv 1909.11556).
    """

    weights: float = 0.0
    attention: float = 0.0
    activation: float = 0.0
    mlp: float = 0.0
    layer: float = 0.0


@dataclass(frozen=True)
class LayerSpec:
    """The numbers of a layer, whatever a configuration calls them.

    Attributes:
        hidden_size: number of features of the hidden states.
        num_heads: number of attention heads.
        intermediate_size: number of features inside the feed-forward network.
        activation: name of the activation there.
        epsilon: what norms add to the variance.
        init: initialiser of the kernels.
        inits: initialisers of those kernels that have another, by role.
        without_bias: roles of the dense layers that have no bias.
        norm_bias: whether norms have a bias.
        head_dim: number of features of a head; `hidden_size / num_heads` if it is `None`.
        rates: dropout rates.
        layer_scale: initial value of the factors of what each branch adds (arXiv 2103.17239); `None` for no factors.
    """

    hidden_size: int
    num_heads: int
    intermediate_size: int
    activation: str
    epsilon: float
    init: Initializer
    inits: Mapping[str, Initializer] = field(default_factory=dict)
    without_bias: tuple[str, ...] = ()
    norm_bias: bool = True
    head_dim: int | None = None
    rates: DropoutRates = DropoutRates()
    layer_scale: float | None = None

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Self:
        """The numbers of a configuration with the field names of BERT; `options` are other attributes."""
        sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        init, epsilon = normal(config.initializer_range), config.layer_norm_eps
        return cls(*sizes, activation=config.hidden_act, epsilon=epsilon, init=init, **options)

    @property
    def attention_size(self) -> int:
        """Number of features of all heads together."""
        return self.num_heads * (self.head_dim or self.hidden_size // self.num_heads)

    def dense(self, role: str, shape: tuple[int, int], policy: Policy) -> Linear:
        """The dense layer of a role, from `shape[0]` features to `shape[1]`."""
        return Linear(*shape, policy, use_bias=role not in self.without_bias, init=self.inits.get(role, self.init))

    def norm(self, policy: Policy) -> LayerNorm:
        """A norm of the hidden states."""
        return LayerNorm(self.hidden_size, policy, epsilon=self.epsilon, use_bias=self.norm_bias)


class TransformerLayer(Module):
    """Self-attention, attention to an encoder's output if the layer `crosses`, and a feed-forward network.

    Attributes:
        names: from the role of each part to its path in checkpoints, in the order of its parameters. The roles are
            "query", "key", "value", "attn_out" and "attn_norm" of attention, the same after "cross_" of attention to an
            encoder's output, "mlp_in", "mlp_out" and "mlp_norm", and with a layer scale "attn_scale" and "mlp_scale".
        residual: where the norms are: `post_norm`, `pre_norm`, or another function like them.
        attention_scale: factor of the attention scores; `head_dim ** -0.5` if it is `None`.
    """

    names: ClassVar[Mapping[str, str]]
    residual: ClassVar[Residual] = staticmethod(post_norm)
    attention_scale: ClassVar[float | None] = None

    def __init__(self, spec: LayerSpec, policy: Policy, *, crosses: bool = False):
        self.num_heads = self.num_cross_heads = spec.num_heads
        self.implementation = policy.attn_implementation
        self.activation, self.rates = get_activation(spec.activation), spec.rates
        self.crosses, self.is_scaled = crosses, spec.layer_scale is not None
        parts = self.make_parts(spec, policy)
        if crosses:
            parts |= {f"cross_{role}": part for role, part in self.make_parts(spec, policy).items()}
        for role in self.names:
            if role in parts:
                place(self, self.path(role), parts[role])

    def dense_shapes(self, spec: LayerSpec) -> dict[str, tuple[int, int]]:
        """The numbers of features before and after each dense layer, by role."""
        hidden, heads, inner = spec.hidden_size, spec.attention_size, spec.intermediate_size
        attention = {"query": (hidden, heads), "key": (hidden, heads), "value": (hidden, heads)}
        return attention | {"attn_out": (heads, hidden), "mlp_in": (hidden, inner), "mlp_out": (inner, hidden)}

    def make_parts(self, spec: LayerSpec, policy: Policy) -> dict[str, Any]:
        """The parts of the layer by role."""
        parts: dict[str, Any] = {
            role: spec.dense(role, shape, policy) for role, shape in self.dense_shapes(spec).items()
        }
        parts |= {role: spec.norm(policy) for role in ("attn_norm", "mlp_norm")}
        if spec.layer_scale is not None:
            for role in ("attn_scale", "mlp_scale"):
                parts[role] = param((spec.hidden_size,), policy.param_dtype, constant(spec.layer_scale))
        return parts

    def path(self, role: str) -> str:
        """The path of the part of a role."""
        return self.names[role]

    @property
    def head_axes(self) -> dict[str, tuple[int, int]]:
        """Of each dense layer of self-attention, which axis counts heads, and in how many groups; for pruning."""
        return {self.path(role): (0 if role == "attn_out" else 1, 1) for role in ("query", "key", "value", "attn_out")}

    def set_num_heads(self, count: int) -> None:
        """Say how many heads self-attention has."""
        self.num_heads = count

    def at(self, role: str) -> Any:
        """The part of a role."""
        return attrgetter(self.path(role))(self)

    def __call__(
        self, hidden_states: jax.Array, *, dropout_rng: jax.Array | None = None, **options: Any
    ) -> BlockOutput:
        """Run the layer on `[batch, q_len, hidden]`, with the arguments of `transform`, or skip it in training."""
        key, layer_key = split_key(dropout_rng, 2)
        output = self.transform(hidden_states, dropout_rng=key, **options)
        states = layer_dropout(hidden_states, output.hidden_states, self.rates.layer, layer_key)
        return output._replace(hidden_states=states)

    def transform(
        self,
        hidden_states: jax.Array,
        *,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        cache: Any = None,
        drop_path_rate: float | jax.Array = 0.0,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
        **self_attention: Any,
    ) -> BlockOutput:
        """Run the layer on `[batch, q_len, hidden]`.

        Args:
            encoder_hidden_states: `[batch, source_len, hidden]`, with a boolean `encoder_attention_mask`
                `[batch, 1, q_len or 1, source_len]`.
            cache: a `LayerCache`, or a pair of it and a `CrossCache` or `None`.
            drop_path_rate: probability in training that a row of the batch skips a branch.
            self_attention: further arguments of `attend`, a mask for example, for the hidden states themselves.
        """
        keys = split_key(dropout_rng, 3)
        own, crossed = cache if isinstance(cache, tuple) else (cache, None)
        options = {"output_attentions": output_attentions, "drop_path_rate": drop_path_rate}
        attend = partial(self.attend, cache=own, dropout_rng=keys[0], **options, **self_attention)
        states, weights, own = self.residual(self.at("attn_norm"), hidden_states, attend)
        cross_weights = None
        if self.crosses and not (encoder_hidden_states is None and crossed is None):
            source = {"encoder_hidden_states": encoder_hidden_states, "mask": encoder_attention_mask}
            attend = partial(self.attend, prefix="cross_", cache=crossed, dropout_rng=keys[1], **options, **source)
            states, cross_weights, crossed = self.residual(self.at("cross_attn_norm"), states, attend)
        run_mlp = partial(self.run_mlp, drop_path_rate=drop_path_rate, dropout_rng=keys[2])
        (states,) = self.residual(self.at("mlp_norm"), states, run_mlp)
        return BlockOutput(states, (own, crossed) if isinstance(cache, tuple) else own, weights, cross_weights)

    def attend(
        self,
        hidden_states: jax.Array,
        *,
        prefix: Literal["", "cross_"] = "",
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        head_mask: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        cache: Any = None,
        drop_path_rate: float | jax.Array = 0.0,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
        **projection: Any,
    ) -> tuple[jax.Array, jax.Array | None, Any]:
        """What attention adds, `[batch, q_len, hidden]`, its weights if asked for, and the cache.

        `mask`, `bias` and `head_mask` are those of `dot_product_attention`.
        """
        inner, outer = split_key(dropout_rng, 2)
        query, key, value, cache = self.project(prefix, hidden_states, encoder_hidden_states, cache, **projection)
        attn_output, weights = dot_product_attention(
            query,
            key,
            value,
            mask,
            bias=bias,
            head_mask=head_mask,
            scale=self.attention_scale,
            implementation=self.implementation,
            return_weights=output_attentions,
            dropout_rate=self.rates.weights,
            dropout_rng=inner,
        )
        output = self.at(f"{prefix}attn_out")(merge_heads(attn_output))
        return self.finish("attn", output, self.rates.attention, drop_path_rate, outer), weights, cache

    def project(
        self, prefix: str, hidden_states: jax.Array, encoder_hidden_states: jax.Array | None, cache: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
        """Queries `[batch, q_len, heads, head_dim]`, keys and values `[batch, kv_len, heads, head_dim]`, the cache."""

        def heads_of(role: str, source: jax.Array) -> jax.Array:
            return split_heads(self.at(prefix + role)(source), self.num_cross_heads if prefix else self.num_heads)

        def keys_values(source: jax.Array) -> tuple[jax.Array, jax.Array]:
            return heads_of("key", source), heads_of("value", source)

        key, value, cache = keys_and_values(keys_values, hidden_states, encoder_hidden_states, cache)
        return heads_of("query", hidden_states), key, value, cache

    def run_mlp(
        self, hidden_states: jax.Array, *, drop_path_rate: float | jax.Array, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array]:
        """What the feed-forward network adds, `[batch, q_len, hidden]`."""
        inner, outer = split_key(dropout_rng, 2)
        output = self.at("mlp_out")(dropout(self.activated(hidden_states), self.rates.activation, inner))
        return (self.finish("mlp", output, self.rates.mlp, drop_path_rate, outer),)

    def activated(self, hidden_states: jax.Array) -> jax.Array:
        """What is inside the feed-forward network, `[batch, q_len, intermediate]`."""
        return self.activation(self.at("mlp_in")(hidden_states))

    def finish(
        self,
        branch: Literal["attn", "mlp"],
        output: jax.Array,
        dropout_rate: float,
        drop_path_rate: float | jax.Array,
        dropout_rng: jax.Array | None,
    ) -> jax.Array:
        """The output of a branch with dropout, its layer scale, and stochastic depth."""
        keys = split_key(dropout_rng, 2)
        output = dropout(output, dropout_rate, keys[0])
        if self.is_scaled:
            output = output * self.at(f"{branch}_scale")[...].astype(output.dtype)[None, None]
        return drop_path(output, drop_path_rate, keys[1])


def text_mask(
    attention_mask: jax.Array | None, q_len: int, cache: LayerCache | None, *, causal: bool
) -> jax.Array | None:
    """What each of `q_len` tokens may attend to: all that is no padding, or, if `causal`, what comes before it of that.

    Args:
        attention_mask: `[batch, kv_len]`, 0 for padding, or a ready `[batch, q_len, kv_len]`.

    Returns:
        A boolean mask that broadcasts to `[batch, heads, q_len, kv_len]`; `None` if all may attend to all.
    """
    if causal:
        return decoder_mask(attention_mask, q_len, cache)
    return None if attention_mask is None else padding_mask(attention_mask)
