"""Texts to tokens, within a time that is proportional to their length."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer.inputs import Inputs
from flaxmodels.tokenizer.lengths import Lengths
from flaxmodels.tokenizer.library import named_errors

if TYPE_CHECKING:
    import tokenizers

MAX_SECONDS = 10
"""What encoding may take, beside a second for each `MIN_CHARS_PER_SECOND`."""
MIN_CHARS_PER_SECOND = 20_000
"""Well below the slowest known tokenizer on a slow machine."""
SHORT_CHARS = 1_000
"""Texts that no tokenizer without regular expressions is slow on. A thread would take longer."""


class Encoder:
    """Encodes texts with a backend.

    The library has no time limit and cannot be interrupted: regular expressions can take a tenth of a second for each
    character. What may take long runs in a thread, which is not waited for beyond the limit. It goes on until the
    library is done, without keeping the process alive; until then the backend is not used again.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend
        self._has_expressions = _has_expressions(backend)
        self._unfinished: Future[list[tokenizers.Encoding]] | None = None

    def __call__(
        self, inputs: Inputs, lengths: Lengths, padding: dict[str, Any], add_special_tokens: bool, split_special: bool
    ) -> list[tokenizers.Encoding]:
        """The tokens of each row.

        Args:
            inputs: the texts.
            lengths: how rows are cut and padded.
            padding: "pad_id", "pad_token" and "pad_type_id"; they count only where rows are padded.
            add_special_tokens: whether to add those that the model expects around a text.
            split_special: whether special tokens in a text are read as any other text.

        Raises:
            FlaxModelsError: the library fails, it takes too long or is not done with a text before, or
                `lengths.max_length` is too short for the special tokens and the stride.
        """
        if self._unfinished is not None and not self._unfinished.done():
            raise FlaxModelsError("the tokenizer is not done with an earlier text, which it took too long for.")
        self._truncate(lengths, self._backend.num_special_tokens_to_add(inputs.is_paired) if add_special_tokens else 0)
        self._pad(lengths, padding)
        self._backend.encode_special_tokens = split_special
        call = partial(self._backend.encode_batch, inputs.rows, inputs.is_split, add_special_tokens)
        with named_errors("the tokenizer cannot encode these texts"):
            is_quick = inputs.chars <= SHORT_CHARS and not self._has_expressions
            return call() if is_quick else self._within(MAX_SECONDS + inputs.chars / MIN_CHARS_PER_SECOND, call)

    def _truncate(self, lengths: Lengths, added: int) -> None:
        if lengths.truncation is None or lengths.max_length is None:
            self._backend.no_truncation()
            return
        if lengths.max_length < added:
            raise FlaxModelsError(
                f"max_length: expected at least {added} special tokens, got {lengths.max_length}. Set a larger one, or "
                "add_special_tokens=False."
            )
        if lengths.stride and lengths.stride >= lengths.max_length - added:
            raise FlaxModelsError(
                f"stride: expected less than {lengths.max_length - added}, which is max_length without {added} special "
                f"tokens, got {lengths.stride}."
            )
        self._backend.enable_truncation(
            lengths.max_length, stride=lengths.stride, strategy=lengths.truncation, direction=lengths.truncation_side
        )

    def _pad(self, lengths: Lengths, padding: dict[str, Any]) -> None:
        if lengths.padding is None:
            self._backend.no_padding()
            return
        self._backend.enable_padding(
            direction=lengths.padding_side,
            pad_to_multiple_of=lengths.pad_to_multiple_of,
            length=lengths.max_length if lengths.padding == "max_length" else None,
            **padding,
        )

    def _within(self, seconds: float, call: Callable[[], list[tokenizers.Encoding]]) -> list[tokenizers.Encoding]:
        future: Future[list[tokenizers.Encoding]] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, daemon=True).start()
        try:
            return future.result(seconds)
        except TimeoutError:
            self._unfinished = future
            raise FlaxModelsError(
                f"the tokenizer is not done after {seconds:.0f} s: its regular expressions or its vocabulary take time "
                "out of proportion to this text. Use the files of a publisher that you trust."
            ) from None


def _has_expressions(backend: tokenizers.Tokenizer) -> bool:
    parts: list[Any] = [backend.normalizer, backend.pre_tokenizer]
    return any(b'"Regex"' in part.__getstate__() for part in parts if part is not None)
