"""`flaxmodels generate`: continue a prompt, or answer a chat message."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from flaxmodels.cli.common import Dtype, ModelArgument, console


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to continue, or the message with --chat.")],
    chat: Annotated[bool, typer.Option(help="Put the prompt into the model's chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens are generated.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy; 1 samples from the model's distribution.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="For repeatable samples.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Computation and storage.")] = Dtype.float32,
) -> None:
    """Generate text with a causal language model.

    Example: `flaxmodels generate ./SmolLM2.gguf --chat --prompt "What is the capital of France?"`
    """
    from flaxmodels.cli.common import tokenizer_path
    from flaxmodels.files.resolve import resolve
    from flaxmodels.registry import AUTO_CLASSES
    from flaxmodels.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(tokenizer_path(resolve(model)))
    language_model = AUTO_CLASSES["AutoModelForCausalLM"].from_pretrained(model, torch_dtype=dtype.value)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed} if temperature else {}
    answer, speed = complete(
        language_model, tokenizer, prompt, chat, max_new_tokens=max_new_tokens, do_sample=bool(sampling), **sampling
    )
    typer.echo(answer)
    console(stderr=True).print(f"[dim]{speed}[/]")


def complete(model: Any, tokenizer: Any, prompt: str, chat: bool, **settings: Any) -> tuple[str, str]:
    """The generated text, and a line about its speed."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}]) if chat else prompt
    batch = tokenizer(text, add_special_tokens=not chat)
    start = time.perf_counter()
    sequences = model.generate(**batch, **settings).sequences
    new = sequences[0, batch["input_ids"].shape[1] :].tolist()
    seconds = time.perf_counter() - start
    speed = f"{len(new)} tokens in {seconds:.1f} s, compilation included"
    return tokenizer.decode(new), speed
