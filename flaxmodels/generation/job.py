"""One call of `generate`: what is run, and what its result becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from flaxmodels.generation import loop
from flaxmodels.generation.config import GenerationConfig
from flaxmodels.generation.prompt import Prompt
from flaxmodels.generation.reader import Program, Request
from flaxmodels.generation.result import DecodingCache, GenerateOutput, StopStrings, check_logits


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
        """What the state after the last token becomes. Raises `FlaxModelsError` if that token came of NaN."""
        if self.strategy == "beams":
            return self._finish_beams(state)
        passes = state.passes if self.strategy == "speculate" else None
        fetched = (state.text.tokens, state.text.length, state.failed, passes)
        tokens, length, failed, passes = jax.device_get(fetched)
        start = self.prompt.input_ids.shape[1]
        check_logits(failed, int(length) - start)
        answers = tokens[:, start:length]
        if stops is not None:
            answers = stops.cut(answers, int(self.request.pad_token_id))
        found: dict[str, Any] = {"sequences": self._behind_prompts(answers)}
        if passes is not None:
            found["passes"] = int(passes)
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
        *finished, length, failed = jax.device_get((*state.finished, state.length, state.failed))
        check_logits(failed, int(length) - self.prompt.input_ids.shape[1])
        tokens, scores, origins = (array[:, :count].reshape(-1, *array.shape[2:]) for array in finished)
        new, start = int((origins >= 0).sum(-1).max()), self.prompt.input_ids.shape[1]
        kept: dict[str, Any] = {name: tuple(array[: length - start]) for name, array in state.kept.items()}
        return GenerateOutput(
            sequences=self._behind_prompts(tokens[:, start : start + new]),
            sequences_scores=jax.device_put(scores),
            beam_indices=jax.device_put(origins[:, :new]),
            **kept,
        )
