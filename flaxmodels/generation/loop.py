"""The compiled programs of generation. Prompt and decoding are one call, or one call a block of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from flaxmodels.generation import beams, sampling, speculation
from flaxmodels.generation.reader import Program, Reader, Request, prepare
from flaxmodels.nn.functional import functional


def compiled(model: Any, function: Callable[..., Any], *others: Any, donate: str | None = None) -> Callable[..., Any]:
    """`function` with the models' `bind`s as its first arguments, compiled once for each `Program` and shapes."""
    structures = [functional(one) for one in (model, *others)]
    cache = structures[0].compiled
    key = (function.__name__, *structures[1:])
    if key not in cache:
        bound = partial(function, *(structure.bind for structure in structures))
        cache[key] = jax.jit(bound, static_argnames="program", donate_argnames=donate)
    return cache[key]


def generate_tokens(bind: Any, values: Any, request: Request, *, program: Program) -> sampling.State:
    """Read the prompts and decode to the end."""
    reader = _reader(bind, values, request, program)
    return sampling.advance(reader, sampling.begin(reader), program.room)


def begin_tokens(bind: Any, values: Any, request: Request, *, program: Program) -> sampling.State:
    """Read the prompts and choose the first tokens."""
    return sampling.begin(_reader(bind, values, request, program))


def advance_tokens(
    bind: Any, values: Any, request: Request, state: sampling.State, until: Any, *, program: Program
) -> sampling.State:
    """Decode until answers have `until` tokens."""
    reader = _reader(bind, values, request, program)
    reader.repeat(program.repeats)
    return sampling.advance(reader, state, until)


def search_beams(bind: Any, values: Any, request: Request, *, program: Program) -> beams.State:
    """Read the prompts and search."""
    return beams.search(_reader(bind, values, request, program))


def look_up(bind: Any, values: Any, request: Request, *, program: Program) -> speculation.State:
    """Decode with guesses from the text itself."""
    return speculation.decode(_reader(bind, values, request, program), None)


def draft_tokens(
    bind: Any, draft: Any, values: Any, draft_values: Any, request: Request, *, program: Program
) -> speculation.State:
    """Decode with guesses of a smaller model."""
    reader = _reader(bind, values, request, program)
    alone = replace(program, chunk=request.input_ids.shape[1])  # the cache of the model is not that of the draft
    anew = request._replace(cache=None, cached=0)
    return speculation.decode(reader, _reader(draft, draft_values, anew, alone))


def _reader(bind: Any, values: Any, request: Request, program: Program) -> Reader:
    model = bind(values)
    prepare(model)
    return Reader(model, request, program)


def prepared(model: Any, values: Any) -> Any:
    """The parameters as decoding reads them, so that several calls need not cast them."""
    if all(value.dtype == model.policy.dtype for value in values):
        return values
    structure = functional(model)

    def cast(values: Any) -> Any:
        bound = structure.bind(values)
        prepare(bound)
        return structure.read(bound)

    return structure.compiled.setdefault("prepare", jax.jit(cast))(values)
