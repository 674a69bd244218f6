"""`flaxmodels embed`: sentences to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flaxmodels.cli.models import load_tokenizer
from flaxmodels.cli.options import Dtype, ModelArgument
from flaxmodels.cli.terminal import cell, console, write


def embed(
    model: ModelArgument,
    texts: Annotated[list[str], typer.Argument(help="Sentences, each in quotes.")],
    dtype: Annotated[Dtype, typer.Option(help="Computation and storage.")] = Dtype.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the vectors as JSON, a list a sentence.")] = False,
) -> None:
    """Embed sentences with an encoder: mean of the last hidden states, normalised. Prints cosine similarities.

    Example: `flaxmodels embed ./all-MiniLM-L6-v2 "A man is eating food." "Someone is having a meal."`
    """
    import json

    from flaxmodels.registry import AUTO_CLASSES

    tokenizer = load_tokenizer(model)
    encoder = AUTO_CLASSES["AutoModel"].from_pretrained(model, torch_dtype=dtype.value)
    vectors = mean_pooled(encoder, tokenizer, texts)
    if as_json:
        write(json.dumps(vectors.tolist()) + "\n")
    else:
        console().print(similarity_table(texts, vectors))


def mean_pooled(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """The mean over the tokens of each text of the last hidden states, of length 1: float32 `[texts, hidden]`."""
    import numpy as np

    longest = encoder.config.max_position_embeddings
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="np")
    hidden = np.asarray(encoder(**batch).last_hidden_state, np.float32)
    weights = batch["attention_mask"][..., None].astype(np.float32)
    summed = (hidden * weights).sum(1)
    return summed / np.linalg.norm(summed, axis=-1, keepdims=True)


def similarity_table(texts: Sequence[str], vectors: Any) -> Any:
    """Cosine similarity of every pair of texts."""
    from rich.table import Table

    table = Table("", *(str(number + 1) for number in range(len(texts))), title="cosine similarity")
    for number, (text, row) in enumerate(zip(texts, vectors @ vectors.T, strict=True)):
        table.add_row(f"{number + 1}. {cell(text)}", *(f"{value:.3f}" for value in row))
    return table
