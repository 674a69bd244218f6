"""`flaxmodels chat`: a conversation with a language model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from flaxmodels.cli import options
from flaxmodels.cli.generate import Completion
from flaxmodels.cli.models import load_language_model, load_tokenizer
from flaxmodels.cli.terminal import say, write
from flaxmodels.errors import FlaxModelsError


def chat(
    model: options.ModelArgument,
    system: Annotated[str | None, typer.Option(help="Message before all others, on how to answer.")] = None,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    dtype: options.ComputationDtype = options.Dtype.float32,
    param_dtype: options.StorageDtype = None,
    compilation_cache: options.CompilationCache = None,
) -> None:
    """Chat with a language model, a line a message, from a terminal or a pipe.

    `/reset` forgets what was said, `/exit` or Ctrl-D ends, and Ctrl-C stops a completion.

    Example: `flaxmodels chat ./SmolLM2.gguf --system "Answer in one sentence."`
    """
    settings = options.sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    tokenizer = load_tokenizer(model)
    if tokenizer.chat_template is None:
        raise FlaxModelsError(f"{model} has no chat template: use `flaxmodels generate {model} --prompt TEXT`")
    language_model = load_language_model(model, dtype, param_dtype, compilation_cache)
    conversation = Conversation(language_model, tokenizer, system, max_new_tokens=max_new_tokens, **settings)
    for line in lines():
        if line == "/reset":
            conversation.reset()
            continue
        completion = conversation.reply(line, write)
        write("\n")
        say((completion.speed(), "dim"), stderr=True)


class Conversation:
    """What was said, and what the model has read of it.

    Attributes:
        messages: all of them, as a chat template takes them.
        cache: the `DecodingCache` of the last whole completion.
    """

    def __init__(self, model: Any, tokenizer: Any, system: str | None = None, **settings: Any):
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.cache: Any = None
        self.reset()

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self.messages = list(self._system)

    def reply(self, message: str, write: Callable[[str], Any]) -> Completion:
        """The completion of a message. Ctrl-C ends it; the conversation goes on from what was written."""
        self.messages.append({"role": "user", "content": message})
        batch = self._tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, return_tensors="np")
        completion = Completion(self._tokenizer, write)
        with suppress(KeyboardInterrupt):
            self.cache = self._model.generate(
                **batch, past_key_values=self.cache, return_dict_in_generate=True, streamer=completion, **self._settings
            ).past_key_values
        self.messages.append({"role": "assistant", "content": completion.text})
        return completion


def lines() -> Iterator[str]:
    """What a person writes, without empty lines, up to `/exit` or the end of the input.

    Raises:
        FlaxModelsError: the input is not text in its encoding.
    """
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        with suppress(ImportError):
            import readline  # noqa: F401  gives input() arrow keys and earlier lines
    try:
        while (line := input(prompt).strip()) != "/exit":
            if line:
                yield line
    except EOFError:
        return
    except UnicodeDecodeError as error:
        raise FlaxModelsError(f"a message is not text in {error.encoding}: {error.reason}") from error
