"""What `generate` returns, and what of an answer only the host can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.generation import loop
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.logits import NO_TOKEN
from flaxmodels.generation.prompt import Prompt
from flaxmodels.generation.reading import Program, Request
from flaxmodels.nn.cache import SLACK, Cache, RingCache, self_attention_cache
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
        forgets = isinstance(self_attention_cache(self.layers), RingCache)
        return 0 if forgets and self.tokens.shape[1] - same > SLACK else same


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


@dataclass(frozen=True)
class Job:
    """One call, settled.

    Attributes:
        strategy: "sample" (greedy decoding too), "beams" or "speculate".
        model, values: with its flat parameters.
        settings: all of them.
        prompt: as it was given.
        request, program: what is called, and what is compiled.
        answers_only: whether the prompt had no ids.
        draft: the model that guesses, and its flat parameters.
    """

    strategy: str
    model: Any
    values: list[Any]
    settings: GenerationConfig
    prompt: Prompt
    request: Request
    program: Program
    answers_only: bool = False
    draft: tuple[Any, list[Any]] | None = None

    def run(self) -> Any:
        """One call of one program."""
        if self.draft is not None:
            model, values = self.draft
            function = loop.compiled(self.model, loop.draft_tokens, model)
            return function(self.values, values, self.request, program=self.program)
        functions = {"sample": loop.generate_tokens, "beams": loop.search_beams, "speculate": loop.look_up}
        return loop.compiled(self.model, functions[self.strategy])(self.values, self.request, program=self.program)

    def finish(self, state: Any, stops: StopStrings | None = None) -> GenerateOutput:
        """What the state after the last token becomes."""
        if self.strategy == "beams":
            return self._finish_beams(state)
        tokens, length = jax.device_get((state.text.tokens, state.text.length))
        start = self.prompt.input_ids.shape[1]
        answers = tokens[:, start:length]
        if stops is not None:
            answers = stops.cut(answers, int(self.request.pad_token_id))
        found: dict[str, Any] = {"sequences": self._behind_prompts(answers)}
        if self.strategy == "speculate":
            found["passes"] = int(state.passes)
        else:
            found |= self._kept(state, answers.shape[1])
        if self.settings.return_dict_in_generate and self.program.repeats == 1 and not self.answers_only:
            found["past_key_values"] = DecodingCache(state.text.cache, tokens[:, : length - 1])
        return GenerateOutput(**found)

    def _behind_prompts(self, answers: np.ndarray) -> jax.Array:
        if not self.answers_only:
            prompts = np.repeat(self.prompt.input_ids, len(answers) // len(self.prompt.input_ids), axis=0)
            answers = np.concatenate([prompts, answers], axis=1)
        return jax.device_put(answers)

    def _kept(self, state: Any, new: int) -> dict[str, Any]:
        """The outputs of each token: those of the prompt, without what filled it, and then of each step."""
        found = {name: tuple(state.kept[name][:new]) for name in ("scores", "logits") if name in state.kept}
        read = int(self.request.prompt_len - self.request.cached)
        for name, first in state.first.items():
            own = [layer[..., :read, :] if name != "hidden_states" else layer[:, :read] for layer in first]
            steps = (tuple(layer[step] for layer in state.kept[name]) for step in range(1, new))
            found[name] = tuple(
                tuple(self._seen(layer, name, step) for layer in layers)
                for step, layers in enumerate((tuple(own), *steps))
            )
        return found

    def _seen(self, layer: jax.Array, name: str, step: int) -> jax.Array:
        """Attention weights without those of empty slots."""
        whole = name == "attentions" and layer.shape[-1] == self.program.slots
        return layer[..., : int(self.request.prompt_len) + step] if whole else layer

    def _finish_beams(self, state: Any) -> GenerateOutput:
        count = self.settings.num_return_sequences or 1
        tokens, scores, origins, steps = jax.device_get((*state.finished, state.length - self.request.prompt_len))
        tokens, scores, origins = (
            array[:, :count].reshape(-1, *array.shape[2:]) for array in (tokens, scores, origins)
        )
        new = int((origins >= 0).sum(-1).max())
        kept: dict[str, Any] = {name: tuple(array[:steps]) for name, array in state.kept.items()}
        start = self.prompt.input_ids.shape[1]
        return GenerateOutput(
            sequences=self._behind_prompts(tokens[:, start : start + new]),
            sequences_scores=jax.device_put(scores),
            beam_indices=jax.device_put(origins[:, :new]),
            **kept,
        )
