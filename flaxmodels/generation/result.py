"""What `generate` returns, and what of an answer only the host can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.prompt import Prompt
from flaxmodels.nn.cache import SLACK, Cache, has_ring
from flaxmodels.outputs import ModelOutput


@dataclass(frozen=True)
class DecodingCache:
    """What a model has read, for another call that begins with the same text.

    Attributes:
        layers: keys and values.
        tokens: int32 `[batch, length]`, the text that they belong to; -1 is padding.
    """

    layers: Cache
    tokens: np.ndarray

    def common(self, prompt: Prompt) -> int:
        """How many tokens of `prompt` need not be read again."""
        ids = np.where(prompt.attention_mask, prompt.input_ids, NO_TOKEN)
        length = min(self.tokens.shape[1], ids.shape[1] - 1)
        differ = (self.tokens[:, :length] != ids[:, :length]).any(0)
        same = int(differ.argmax()) if differ.any() else length
        return 0 if has_ring(self.layers) and self.tokens.shape[1] - same > SLACK else same


class GenerateOutput(ModelOutput):
    """What `generate` returns. A row is an answer, `num_return_sequences` of them for each prompt.

    Attributes:
        sequences: int32 `[rows, prompt_len + new]`, the prompts as given and their answers; rows that ended before the
            longest one are filled with `pad_token_id`.
        sequences_scores: float32 `[rows]`, of beam search: sums of log probabilities by their length.
        beam_indices: int32 `[rows, new]`, of beam search: the row of `scores` that each token was taken from.
        scores, logits: for each new token, float32 `[rows, vocab]`: processed, and the model's own.
        attentions, cross_attentions, hidden_states: for each new token the arrays of each layer, those of the prompt
            first.
        past_key_values: a `DecodingCache` for a next call.
        passes: of speculative decoding, how often the model was run.
    """

    sequences: jax.Array
    sequences_scores: jax.Array | None = None
    beam_indices: jax.Array | None = None
    scores: tuple[jax.Array, ...] | None = None
    logits: tuple[jax.Array, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Any = None
    passes: int | None = None


def check_logits(failed: np.ndarray, token: int) -> None:
    """Refuse a result whose new token number `token`, counted from 1, was chosen by no numbers in `failed` rows."""
    if rows := np.flatnonzero(failed).tolist():
        raise FlaxModelsError(
            f"generate(): the logits of new token {token} are NaN or infinite in rows {rows}. Either the weights or "
            'inputs_embeds have such values, or float16 overflows: use dtype="bfloat16" or "float32". '
            "remove_invalid_values=True replaces them"
        )


@dataclass(frozen=True)
class StopStrings:
    """Texts at which an answer ends, and the tokenizer that writes it."""

    tokenizer: Any
    texts: Sequence[str]

    @classmethod
    def read(cls, tokenizer: Any, texts: str | Sequence[str] | None) -> StopStrings | None:
        """`None` if there are no texts."""
        if not texts:
            return None
        if tokenizer is None:
            raise FlaxModelsError("stop_strings need tokenizer=, to know what the tokens mean")
        return cls(tokenizer, [texts] if isinstance(texts, str) else list(texts))

    def ended(self, answers: np.ndarray) -> np.ndarray:
        """bool `[rows]`: whether answers `[rows, new]` hold one of the texts."""
        return np.array([self._end(row) is not None for row in answers.tolist()])

    def cut(self, answers: np.ndarray, pad_token_id: int) -> np.ndarray:
        """The answers with `pad_token_id` behind the token that completes a text, no longer than the longest."""
        ends = [self._end(row) for row in answers.tolist()]
        stops = np.array([answers.shape[1] if end is None else end for end in ends])
        kept = np.arange(stops.max()) < stops[:, None]
        return np.where(kept, answers[:, : stops.max()], pad_token_id).astype(np.int32)

    def _end(self, row: list[int]) -> int | None:
        """The fewest first tokens that hold one of the texts."""
        if not self._holds(row):
            return None
        low, high = 1, len(row)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._holds(row[:middle]) else (middle + 1, high)
        return low

    def _holds(self, row: list[int]) -> bool:
        written = self.tokenizer.decode(row, skip_special_tokens=False)
        return any(text in written for text in self.texts)
