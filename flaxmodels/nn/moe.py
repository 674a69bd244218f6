"""Mixtures of experts (arXiv 1701.06538): a router sends each token to a few of many MLPs, whose outputs are summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.dense import Linear, matmul
from flaxmodels.nn.initializers import Initializer, zeros
from flaxmodels.nn.module import Module, TorchLeaf, param
from flaxmodels.policy import Policy
from interop.ops import Concat, Stack, Transpose, Unflatten


class Routing(NamedTuple):
    """Where tokens go: the router's `logits` float32 `[tokens, experts]`; the numbers of the `chosen` experts, int32,
    and their `weights`, float32, each `[tokens, top_k]`.
    """

    logits: jax.Array
    chosen: jax.Array
    weights: jax.Array


def route(logits: jax.Array, top_k: int, *, normalise: bool) -> Routing:
    """Each token to its `top_k` likeliest experts, weighted by their probabilities; `logits` are `[tokens, experts]`.

    With `normalise` these are divided by their sum: they are then the softmax of the chosen logits alone.
    """
    found, chosen = jax.lax.top_k(logits, top_k)
    every = found if normalise else logits
    weights = jnp.exp(found - jax.nn.logsumexp(every, axis=-1, keepdims=True))
    return Routing(logits, chosen, weights)


Product = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
"""From inputs, a kernel and a bias to `inputs @ kernel + bias`."""
Expert = Callable[[jax.Array, dict[str, jax.Array], Product], jax.Array]
"""An MLP as a function of its input, its parameters and how to multiply."""


def mix_experts(
    expert: Expert, parameters: dict[str, jax.Array], x: jax.Array, routing: Routing, implementation: str | None = None
) -> jax.Array:
    """The weighted sum of the outputs of the chosen experts for each token.

    Args:
        expert: what all experts compute.
        parameters: of all experts, along a leading axis.
        x: `[tokens, hidden]`.
        implementation: "grouped" computes for each token its chosen experts only, as one product of sorted rows;
            "batched" computes all experts for all tokens, as one product; "eager" computes one expert after another
            for all tokens, but for those that no token chose, and so takes the least memory. By default "grouped", but
            "eager" on a CPU, where it is several times as fast.

    Returns:
        `[tokens, hidden]` in the dtype of `x`, summed in float32.
    """
    if implementation is None:
        branches = {"cpu": partial(_one_by_one, expert), "default": partial(_sorted, expert)}
        return jax.lax.platform_dependent(parameters, x, routing, **branches).astype(x.dtype)
    mix = {"eager": _one_by_one, "batched": _all_at_once, "grouped": _sorted}[implementation]
    return mix(expert, parameters, x, routing).astype(x.dtype)


def _one_by_one(expert: Expert, parameters: dict[str, jax.Array], x: jax.Array, routing: Routing) -> jax.Array:
    def step(total, each):
        own, weights, is_chosen = each

        def add(total):
            return total + weights[:, None] * expert(x, own, _product).astype(jnp.float32)

        return jax.lax.cond(is_chosen, add, lambda total: total, total), None

    chosen = _is_chosen(routing)
    every = (parameters, _weights_by_expert(routing, chosen), chosen.any((0, 1)))
    return jax.lax.scan(step, jnp.zeros(x.shape, jnp.float32), every)[0]


def _all_at_once(expert: Expert, parameters: dict[str, jax.Array], x: jax.Array, routing: Routing) -> jax.Array:
    def product(x, kernel, bias):
        # [1 or experts, tokens, in] . [experts, in, out] -> [experts, tokens, out]
        y = jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)
        return y if bias is None else y + bias[:, None]

    outputs = expert(x[None], parameters, product)
    weights = _weights_by_expert(routing, _is_chosen(routing))
    # [experts, tokens, hidden] . [experts, tokens] -> [tokens, hidden]
    return jnp.einsum("eth,et->th", outputs.astype(jnp.float32), weights)


def _sorted(expert: Expert, parameters: dict[str, jax.Array], x: jax.Array, routing: Routing) -> jax.Array:
    tokens, top_k = routing.chosen.shape
    chosen = routing.chosen.reshape(-1)
    order = jnp.argsort(chosen)
    group, sizes = chosen[order], jnp.bincount(chosen, length=routing.logits.shape[-1]).astype(jnp.int32)

    def product(x, kernel, bias):
        # [tokens * top_k, in], sorted by expert, . [experts, in, out] -> [tokens * top_k, out]
        y = jax.lax.ragged_dot(x, kernel, sizes, preferred_element_type=jnp.float32).astype(x.dtype)
        return y if bias is None else y + bias[group]

    outputs = expert(x[order // top_k], parameters, product)[jnp.argsort(order)]
    # [tokens, top_k, hidden] . [tokens, top_k] -> [tokens, hidden]
    return jnp.einsum("tkh,tk->th", outputs.reshape(tokens, top_k, -1).astype(jnp.float32), routing.weights)


def _product(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = matmul(x, kernel)
    return y if bias is None else y + bias[None]


def _is_chosen(routing: Routing) -> jax.Array:
    """Boolean `[tokens, top_k, experts]`."""
    return routing.chosen[..., None] == jnp.arange(routing.logits.shape[-1])[None, None]


def _weights_by_expert(routing: Routing, is_chosen: jax.Array) -> jax.Array:
    """float32 `[experts, tokens]`, zero where an expert is not chosen."""
    # [tokens, top_k, experts] . [tokens, top_k] -> [experts, tokens]
    return jnp.einsum("tke,tk->et", is_chosen.astype(jnp.float32), routing.weights)


def load_balancing_loss(router_logits: Sequence[jax.Array], top_k: int, mask: jax.Array | None = None) -> jax.Array:
    """How unevenly tokens are spread over the experts (arXiv 2101.03961, equations 4 to 6), a number.

    It is `top_k` where all experts are as likely and as often chosen. `router_logits` are `[tokens, experts]` of each
    layer, `mask` is boolean `[tokens]`, false for padding.
    """
    logits = jnp.stack(router_logits).astype(jnp.float32)
    experts = logits.shape[-1]
    chosen = jax.nn.one_hot(jax.lax.top_k(logits, top_k)[1], experts).sum(-2)
    counts = jnp.ones(logits.shape[1]) if mask is None else mask.astype(jnp.float32)
    shares = [
        # [layers, tokens, experts] . [tokens] -> [experts]
        jnp.einsum("lte,t->e", values, counts) / (len(router_logits) * counts.sum())
        for values in (chosen, jax.nn.softmax(logits, axis=-1))
    ]
    return experts * jnp.sum(shares[0] * shares[1])


class Router(Linear):
    """From tokens `[tokens, hidden]` to their `Routing`, as `route` makes it. Logits are not rounded to half precision,
    which would make ties.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        policy: Policy,
        *,
        top_k: int,
        normalise: bool,
        use_bias: bool = False,
        init: Initializer,
    ):
        super().__init__(hidden, experts, policy, use_bias=use_bias, init=init)
        self.top_k, self.normalise = top_k, normalise

    def route(self, x: jax.Array) -> Routing:
        """Which experts `x` `[tokens, hidden]` goes to."""
        kernel = self.kernel[...].astype(self.dtype).astype(jnp.float32)
        logits = matmul(x.astype(self.dtype).astype(jnp.float32), kernel)
        if self.bias is not None:
            logits = logits + self.bias[...].astype(jnp.float32)[None]
        return route(logits, self.top_k, normalise=self.normalise)


class Experts(Module):
    """Gated MLPs, `down(act(gate(x)) * up(x))`, with kernels `[experts, in, out]`; those of gate and up are one."""

    policy_attributes = {"dtype": "dtype", "implementation": "experts_implementation"}

    def __init__(
        self,
        experts: int,
        hidden: int,
        inner: int,
        policy: Policy,
        *,
        activation: str = "silu",
        use_bias: bool = False,
        init: Initializer,
    ):
        self.dtype, self.implementation = policy.dtype, policy.experts_implementation
        self.activation = get_activation(activation)
        self.gate_up_proj = param((experts, hidden, 2 * inner), policy.param_dtype, init)
        self.down_proj = param((experts, inner, hidden), policy.param_dtype, init)
        if use_bias:
            self.gate_up_proj_bias = param((experts, 2 * inner), policy.param_dtype, zeros)
            self.down_proj_bias = param((experts, hidden), policy.param_dtype, zeros)

    def gated(self, gate_up: jax.Array) -> jax.Array:
        """`[..., 2 * inner]` to `[..., inner]`."""
        gate, up = jnp.split(gate_up, 2, axis=-1)
        return self.activation(gate) * up

    def __call__(self, x: jax.Array, routing: Routing) -> jax.Array:
        names = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")
        parameters = {name: getattr(self, name)[...].astype(self.dtype) for name in names if hasattr(self, name)}

        def expert(x, own, product):
            gate_up = product(x, own["gate_up_proj"], own.get("gate_up_proj_bias"))
            return product(self.gated(gate_up), own["down_proj"], own.get("down_proj_bias"))

        return mix_experts(expert, parameters, x.astype(self.dtype), routing, self.implementation)


class SeparateExperts(Experts):
    """Experts that torch's files hold one by one, and live torch modules together."""

    projections: ClassVar[tuple[str, str, str]] = ("gate_proj", "up_proj", "down_proj")
    """What files call gate, up and down."""

    @property
    def torch_leaves(self) -> dict[str, TorchLeaf]:  # pyright: ignore[reportIncompatibleVariableOverride]  # by sizes
        """How torch's files store the kernels: one tensor for each expert and projection."""
        experts, inner, _ = self.down_proj.get_raw_value().shape[-3:]
        gate, up, down = self.projections
        pairs = tuple(f"{number}.{name}.weight" for number in range(experts) for name in (gate, up))
        transposed = Transpose((0, 2, 1))
        joined = (Concat(0, (inner,) * len(pairs)), Unflatten(0, (experts, 2 * inner)), transposed)
        downs = tuple(f"{number}.{down}.weight" for number in range(experts))
        return {
            "gate_up_proj": TorchLeaf(pairs, joined),
            "down_proj": TorchLeaf(downs, (Stack(experts), transposed)),
        }


class SparseMLP(Module):
    """A router and its experts. In training, the input of both may be multiplied by noise around 1."""

    def __init__(self, gate: Router, experts: Experts, *, noise: float = 0.0):
        self.gate, self.experts, self.noise = gate, experts, noise

    def __call__(self, hidden_states: jax.Array, dropout_rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """`[batch, q_len, hidden]`, and the logits of the router, float32 `[batch * q_len, experts]`."""
        if dropout_rng is not None and self.noise:
            low, high, shape = 1.0 - self.noise, 1.0 + self.noise, hidden_states.shape
            hidden_states = hidden_states * jax.random.uniform(dropout_rng, shape, hidden_states.dtype, low, high)
        return routed(self.gate, self.experts, hidden_states)


def routed(router: Router, experts: Experts, hidden_states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the experts make of `[batch, q_len, hidden]`, and the logits of the router `[batch * q_len, experts]`."""
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    routing = router.route(tokens)
    return experts(tokens, routing).reshape(hidden_states.shape), routing.logits
