"""Texts to token ids, within a time that is proportional to their length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import FlaxModelsError
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

    def __call__(self, texts: Sequence[str], max_length: int | None, add_special_tokens: bool) -> list[list[int]]:
        """The token ids of texts, of at most `max_length` each.

        Raises:
            FlaxModelsError: something is no text, the library fails, it takes too long or is not done with a text
                before, or `max_length` is too short for the special tokens.
        """
        _check_texts(texts)
        if self._unfinished is not None and not self._unfinished.done():
            raise FlaxModelsError("the tokenizer is not done with an earlier text, which it took too long for.")
        self._truncate(max_length, self._backend.num_special_tokens_to_add(False) if add_special_tokens else 0)
        chars = sum(map(len, texts))
        call = partial(self._backend.encode_batch, texts, add_special_tokens=add_special_tokens)
        with named_errors("the tokenizer cannot encode these texts"):
            is_quick = chars <= SHORT_CHARS and not self._has_expressions
            rows = call() if is_quick else self._within(MAX_SECONDS + chars / MIN_CHARS_PER_SECOND, call)
        return [row.ids for row in rows]

    def _truncate(self, max_length: int | None, added: int) -> None:
        if max_length is None:
            self._backend.no_truncation()
        elif max_length > added:
            self._backend.enable_truncation(max_length)
        else:
            raise FlaxModelsError(f"max_length: expected more than {added} special tokens, got {max_length}.")

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


def _check_texts(texts: Sequence[Any]) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise FlaxModelsError(f"texts: expected a str or several, got {type(text).__name__} at {index}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FlaxModelsError(
                f"texts: expected Unicode text, got half of a surrogate pair, {text[error.start]!r}, "
                f"at character {error.start} of text {index}."
            ) from error
