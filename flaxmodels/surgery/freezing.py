"""Which parameters training changes: of those that are frozen it computes no gradient and keeps no moments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

import jax
from flax import nnx

from flaxmodels import parameters
from flaxmodels.capability import Capability
from flaxmodels.errors import FlaxModelsError
from flaxmodels.nn.leaves import Leaf, iter_leaves
from flaxmodels.nn.module import is_frozen, raise_flags
from flaxmodels.parameters import Params, check_keys, flatten, nest
from flaxmodels.surgery.modules import iter_modules

Filter = str | Callable[[str], bool]
"""A regular expression that is searched in the "/"-joined path of a parameter, or a function of that path."""


def trainable(path: tuple[Any, ...], value: Any) -> bool:
    """Whether a variable is a parameter that is not frozen: a filter of NNX.

    As in `nnx.Optimizer(model, tx, wrt=trainable)`, `nnx.state(model, trainable)`, and
    `nnx.grad(loss, argnums=nnx.DiffState(0, trainable))`.
    """
    return isinstance(value, nnx.Param) and not is_frozen(value)


class FreezingMixin(Capability):
    """Freezes parameters, and says which are not for `jax.grad` and optax.

    A call of the model has no gradient with respect to frozen parameters: `jax.grad` gives zeros for them in a tree of
    all, whose computation XLA leaves out. Optimizers are told by `trainable_mask` or `trainable_labels`, or get the
    trainable part of the tree alone, as `split_params` gives it. A program that was compiled around the model before,
    by `jax.jit` and the like, does not hear of it.
    """

    def freeze(self, *filters: Filter) -> Self:
        """Freeze the parameters that one of the filters chooses, all if there are none. Returns the model.

        Args:
            filters: regular expressions that are searched in the path of a parameter ("bert/encoder/layer/0/"), or
                functions of the path that return a bool. Layers that are stacked have the paths of all of them.

        Raises:
            FlaxModelsError: a filter that chooses no parameter, or some layers of a stacked one.
        """
        _mark(self, filters, frozen=True)
        return self

    def unfreeze(self, *filters: Filter) -> Self:
        """Let the parameters train again that one of the filters chooses, all if there are none. As `freeze`."""
        _mark(self, filters, frozen=False)
        return self

    def enable_input_require_grads(self) -> None:
        """Compute the gradients of the input embeddings, those of models in this one too, although they are frozen.

        They stay frozen for optimizers and counts. torch needs this for adapters and gradient checkpointing on frozen
        embeddings; here gradients reach adapters in any case, and `inputs_embeds` too.

        Raises:
            NotImplementedError: no module embeds the input.
        """
        _mark_input(self, requires_gradient=True)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        _mark_input(self, requires_gradient=False)

    def trainable_mask(self, params: Any = None) -> Any:
        """True for each parameter that is not frozen, false for the others: for `optax.masked`.

        Args:
            params: a tree of parameters, whose structure the result has; that of `model.params` by default. So
                `model.trainable_mask` itself can be given to optax.

        Raises:
            FlaxModelsError: `params` has other names than the model.
        """
        return _by_parameter(self, params, lambda trains: trains)

    def trainable_labels(self, params: Any = None) -> Any:
        """ "trainable" or "frozen" for each parameter, as `trainable_mask`: for `optax.multi_transform`."""
        return _by_parameter(self, params, lambda trains: "trainable" if trains else "frozen")

    def split_params(self, params: Mapping[str, Any] | None = None) -> tuple[Params, Params]:
        """The trainable and the frozen parameters as nested dicts, whose union `merge_params` makes.

        As in `jax.grad(lambda trainable: loss(model(**batch, params=model.merge_params(trainable, frozen))))`.

        Args:
            params: split in place of the model's own.

        Raises:
            FlaxModelsError: `params` has other names than the model.
        """
        given = parameters.values(self, nnx.Param) if params is None else flatten(params)
        mask = _trains(self)
        check_keys(given, mask)
        trains = {name: value for name, value in given.items() if mask[name]}
        return nest(trains), nest({name: value for name, value in given.items() if not mask[name]})

    @property
    def trainable_params(self) -> Params:
        """The first part of `split_params`."""
        return self.split_params()[0]

    @staticmethod
    def merge_params(*parts: Mapping[str, Any]) -> Params:
        """One nested dict of all parts; the last one counts where several have a parameter."""
        return nest({name: value for part in parts for name, value in flatten(part).items()})


def _trains(model: Any) -> dict[str, bool]:
    return {leaf.name: not is_frozen(leaf.variable) for leaf in parameters.leaves(model, nnx.Param)}


def _by_parameter(model: Any, params: Any, value: Callable[[bool], Any]) -> Any:
    trains = _trains(model)
    if params is None:
        return nest({name: value(each) for name, each in trains.items()})
    named, tree = jax.tree_util.tree_flatten_with_path(params)
    names = ["/".join(str(getattr(key, "key", key)) for key in path) for path, _ in named]
    check_keys(names, trains)
    return jax.tree.unflatten(tree, [value(trains[name]) for name in names])


def _mark(model: Any, filters: Iterable[Filter], *, frozen: bool) -> None:
    leaves = parameters.leaves(model, nnx.Param)
    tests = [re.compile(each).search if isinstance(each, str) else each for each in filters]
    chosen = [leaf for test in tests for leaf in _chosen(leaves, test)] if tests else leaves
    for leaf in chosen:
        leaf.variable.set_metadata(frozen=frozen)
    _announce(model, {id(leaf.variable) for leaf in chosen})


def _chosen(leaves: list[Leaf], test: Callable[[str], Any]) -> list[Leaf]:
    layers = {leaf.name: [bool(test(name)) for name in leaf.own_names("/")] for leaf in leaves}
    found = [leaf for leaf in leaves if any(layers[leaf.name]) or test(leaf.name)]
    partly = [leaf.name for leaf in found if not all(layers[leaf.name]) and not test(leaf.name)]
    pattern = getattr(getattr(test, "__self__", None), "pattern", test)
    if partly:
        raise FlaxModelsError(
            f"{pattern!r} chooses some layers of {partly[0]}, which holds all of them: load the model with "
            "scan_layers=False, or choose all layers"
        )
    if not found:
        raise FlaxModelsError(
            f"{pattern!r} chooses no parameter: expected what is found in a path such as {leaves[0].name}"
        )
    return found


def _mark_input(model: Any, *, requires_gradient: bool) -> None:
    variables: dict[int, nnx.Variable] = {}
    parts: list[Any] = [module for _, module in iter_modules(model) if isinstance(module, Capability)]
    for part in parts:
        with suppress(NotImplementedError):
            variables |= {id(leaf.variable): leaf.variable for leaf in iter_leaves(part.get_input_embeddings())}
    if not variables:
        raise NotImplementedError(f"{type(model).__name__} has no input embeddings")
    for variable in variables.values():
        variable.set_metadata(requires_gradient=requires_gradient)
    _announce(model, variables.keys())


def _announce(model: Any, changed: Iterable[int]) -> None:
    """Let programs be compiled anew that depend on these variables."""
    for leaf in iter_leaves(model):
        if id(leaf.variable) in changed:
            raise_flags(leaf.owner)
