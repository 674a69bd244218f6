"""The tokenizer of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flaxmodels.errors import FlaxModelsError
from flaxmodels.files.formats import is_self_contained
from flaxmodels.tokenizer import library
from flaxmodels.tokenizer.encoder import Encoder
from flaxmodels.tokenizer.folder import read_folder
from flaxmodels.tokenizer.gguf import read_gguf
from flaxmodels.tokenizer.stream import TextStream

if TYPE_CHECKING:
    import tokenizers

_MAX_ID = np.iinfo(np.int32).max


class Tokenizer:
    """Token ids of texts and texts of token ids, in the way a model was trained with.

    Attributes:
        backend: the `tokenizers.Tokenizer` that does the work.
        special_tokens: texts of the special tokens by name, "bos_token", "eos_token", ...; a chat template
            can use these names.
        bos_token, eos_token, pad_token: their texts, or None.
        bos_token_id, eos_token_id, pad_token_id: their ids, or None.
        chat_template: the Jinja template that makes a prompt of messages, or None.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        chat_template: str | None = None,
    ):
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_template = chat_template
        self.bos_token, self.bos_token_id = self._special("bos_token")
        self.eos_token, self.eos_token_id = self._special("eos_token")
        self.pad_token, self.pad_token_id = self._special("pad_token")
        self._encode = Encoder(backend)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads it from a folder with a `tokenizer.json`, or from a `.gguf` file.

        In a folder, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` count too if
        they exist.

        Raises:
            CheckpointError: there is no tokenizer, or one that cannot be read or that would take time or memory out
                of proportion to its size.
            FlaxModelsError: the library `tokenizers` is not installed.
        """
        library.require("tokenizers")
        path = Path(path)
        return cls(*(read_gguf(path) if is_self_contained(path.name) else read_folder(path)))

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        padding: Literal["left", "right"] = "right",
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> dict[str, np.ndarray]:
        """The batch that a model takes: "input_ids" and "attention_mask", int32 `[batch, q_len]`.

        Args:
            texts: one text, a batch of one, or several.
            padding: the side that shorter texts are padded on; the left one for generation.
            max_length: the most tokens of a text, special ones included; the rest is cut off. None keeps all.
            add_special_tokens: whether to add those that the model expects around a text. A prompt made by a
                chat template has them already.

        Raises:
            FlaxModelsError: an argument is not one of these, or the tokenizer fails on a text or takes more than 10
                seconds and one for each 20,000 characters.
        """
        if padding not in ("left", "right"):
            raise FlaxModelsError(f"padding: expected 'left' or 'right', got {padding!r}.")
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = self._encode(texts, max_length, add_special_tokens)
        width = max(map(len, rows), default=0)
        if (highest := max((max(row, default=0) for row in rows), default=0)) > _MAX_ID:
            raise FlaxModelsError(f"the tokenizer has the token id {highest}, which is no int32.")
        # The mask covers the padding, so that any id serves in a model that has none for it.
        input_ids = np.full((len(rows), width), self.pad_token_id or 0, np.int32)
        attention_mask = np.zeros_like(input_ids)
        for index, row in enumerate(rows):
            columns = slice(width - len(row), None) if padding == "left" else slice(len(row))
            input_ids[index, columns] = row
            attention_mask[index, columns] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """The text of the token ids `[q_len]`, without the special ones unless told otherwise.

        Raises:
            FlaxModelsError: an id is negative or too large for a tokenizer, or the library fails.
        """
        return library.decode(self.backend, [int(token) for token in ids], skip_special_tokens)

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """What decodes ids while they come, without the special ones unless told otherwise."""
        return TextStream(self, skip_special_tokens)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, to be tokenized with `add_special_tokens=False`.

        Args:
            messages: in their order, such as `{"role": "user", "content": "Hello"}`.
            add_generation_prompt: whether the prompt ends where the completion of the assistant begins.

        Raises:
            FlaxModelsError: there is no chat template, it does not accept the messages, or it would take time or
                memory out of proportion to them (`flaxmodels.tokenizer.budget` has the limits).
        """
        if self.chat_template is None:
            raise FlaxModelsError(
                "this tokenizer has no chat template. Set its chat_template, or write the prompt without one."
            )
        library.require("jinja2")
        from flaxmodels.tokenizer.chat import render

        absent = {"tools": None, "documents": None}
        names = {"messages": messages, "add_generation_prompt": add_generation_prompt, **absent}
        return render(self.chat_template, self.special_tokens | names)

    def _special(self, name: str) -> tuple[str | None, int | None]:
        token = self.special_tokens.get(name)
        return token, None if token is None else self.backend.token_to_id(token)
