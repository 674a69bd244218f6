"""`flaxmodels generate`: continue a prompt, or reply to a chat message."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flaxmodels.cli import options
from flaxmodels.cli.models import load_language_model, load_tokenizer
from flaxmodels.cli.terminal import say, write


def generate(
    model: options.ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to continue, or the message with --chat.")],
    chat: Annotated[bool, typer.Option(help="Put the prompt into the model's chat template.")] = False,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the completion; may be repeated.")] = None,
    dtype: options.ComputationDtype = options.Dtype.float32,
    param_dtype: options.StorageDtype = None,
    compilation_cache: options.CompilationCache = None,
) -> None:
    """Generate text with a causal language model, and print it as it comes. Its speed goes to standard error.

    Example: `flaxmodels generate ./SmolLM2.gguf --chat --prompt "What is the capital of France?"`
    """
    settings = options.sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    tokenizer = load_tokenizer(model)
    language_model = load_language_model(model, dtype, param_dtype, compilation_cache)
    settings |= {"max_new_tokens": max_new_tokens, "stop_strings": stop or None}
    completion = complete(language_model, tokenizer, prompt, chat, write, **settings)
    write("\n")
    say((completion.speed(), "dim"), stderr=True)


class Completion:
    """The text of one completion, written and timed while it is decoded: a `streamer` of `generate`."""

    def __init__(self, tokenizer: Any, write: Callable[[str], Any]):
        self._stream, self._write = tokenizer.stream(skip_special_tokens=True), write
        self._times: list[float] = []

    @property
    def text(self) -> str:
        """What was written."""
        return self._stream.text

    def put(self, value: Any) -> None:
        """The prompt `[1, prompt_len]`, which is not written, or a token `[1]`."""
        self._times.append(time.perf_counter())
        if value.ndim == 1:
            self._write(self._stream(value))

    def end(self) -> None:
        """There are no more tokens."""
        self._write(self._stream.end())

    def speed(self) -> str:
        """A line about the time that it took, from when the prompt was known."""
        if len(self._times) < 2:
            return "no token"
        start, *times = self._times
        first = f"first token after {times[0] - start:.2f} s"
        if len(times) == 1:
            return f"{first}, compilation included"
        rate = (len(times) - 1) / (times[-1] - times[0])
        return f"{first}, then {len(times) - 1} at {rate:.1f} tokens/s, compilation included"


def complete(
    model: Any,
    tokenizer: Any,
    prompt: str,
    chat: bool,
    write: Callable[[str], Any] = lambda text: None,
    **settings: Any,
) -> Completion:
    """The completion of a prompt; `write` gets its text while it is decoded."""
    if chat:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="np")
    else:
        inputs = tokenizer(prompt, return_tensors="np")
    completion = Completion(tokenizer, write)
    model.generate(**inputs, tokenizer=tokenizer, streamer=completion, **settings)
    return completion
