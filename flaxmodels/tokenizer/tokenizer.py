"""The tokenizer of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.arguments import check_arguments
from flaxmodels.files.formats import is_self_contained
from flaxmodels.files.location import resolve
from flaxmodels.files.repository import split_hub_kwargs
from flaxmodels.tokenizer import library
from flaxmodels.tokenizer.added_tokens import add_tokens
from flaxmodels.tokenizer.chats import ChatMixin
from flaxmodels.tokenizer.completion import complete, special_tokens_of
from flaxmodels.tokenizer.decoding import DecodingMixin
from flaxmodels.tokenizer.encoder import Encoder
from flaxmodels.tokenizer.folder import TOKENIZER_NAME, read_folder
from flaxmodels.tokenizer.gguf import read_gguf
from flaxmodels.tokenizer.lengths import UNLIMITED, check_side
from flaxmodels.tokenizer.padding import PaddingMixin
from flaxmodels.tokenizer.parts import Parts
from flaxmodels.tokenizer.saving import SavingMixin
from flaxmodels.tokenizer.settings import check_overrides, token_text_of
from flaxmodels.tokenizer.templates import by_name

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(PaddingMixin, DecodingMixin, ChatMixin, SavingMixin):
    """Token ids of texts and texts of token ids, in the way a model was trained with.

    Its methods are those of transformers' fast tokenizers: the same names, arguments, defaults and results.

    Attributes:
        backend: the `tokenizers.Tokenizer` that does the work.
        special_tokens: texts of the special tokens by role, "bos_token", "eos_token", ...; a chat template can use
            these names.
        chat_template: the Jinja template that makes a prompt of messages, several by name, or None.
        model_max_length: tokens of a row that the model takes; 10**30 if that is not known.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        model_input_names: what the model takes, "input_ids" first.
        clean_up_tokenization_spaces: whether `decode` takes away spaces before English punctuation.
        split_special_tokens: whether special tokens in a text are read as any other text.
        settings: whatever else `tokenizer_config.json` says, which `save_pretrained` writes.
        name_or_path: where it was read from.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] = {},
        chat_template: str | dict[str, str] | None = None,
        settings: Mapping[str, Any] = {},
    ):
        settings = dict(settings)
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_template = chat_template
        self.additional_special_tokens = [token_text_of(t) for t in settings.pop("additional_special_tokens", ())]
        self.model_max_length = int(settings.pop("model_max_length", UNLIMITED))
        self.padding_side = check_side("padding_side", settings.pop("padding_side", "right"))
        self.truncation_side = check_side("truncation_side", settings.pop("truncation_side", "right"))
        self.model_input_names = list(settings.pop("model_input_names", ("input_ids", "attention_mask")))
        self.clean_up_tokenization_spaces = settings.pop("clean_up_tokenization_spaces", False)
        self.split_special_tokens = settings.pop("split_special_tokens", False)
        self.name_or_path = ""
        self.settings = {name: value for name, value in settings.items() if name not in self.special_tokens}
        self._encoder = Encoder(backend)
        self._logged = set()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        gguf_file: str | None = None,
        use_fast: bool = True,
        **kwargs: Any,
    ) -> Tokenizer:
        """Reads it from a folder, a `.gguf` file, or the Hub.

        A folder has a `tokenizer.json`; or a `vocab.txt` as BERT's, a `vocab.json` with `merges.txt` as GPT-2's, or a
        model of SentencePiece as T5's or Llama's. `tokenizer_config.json`, `special_tokens_map.json`,
        `added_tokens.json`, `chat_template.jinja` and `additional_chat_templates/` count too if they exist.

        Args:
            pretrained_model_name_or_path: the folder, the file, or an id of the Hub.
            gguf_file: name of a GGUF file in the folder.
            use_fast: accepted as True, which it is.
            kwargs: keywords of the Hub (`revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, ...), and
                settings that count in place of `tokenizer_config.json`, such as `padding_side="left"`.

        Raises:
            CheckpointNotFound: there is no such repository.
            CheckpointError: there is no tokenizer, or one that cannot be read or that would take time or memory out
                of proportion to its size.
            FlaxModelsError: a setting is unknown or of a wrong type, or the library `tokenizers` is not installed.
        """
        library.require("tokenizers")
        hub, settings = split_hub_kwargs(check_arguments(kwargs))
        check_overrides(settings if use_fast else settings | {"use_fast": use_fast})
        name = os.fspath(pretrained_model_name_or_path)
        location = resolve(name, **hub).named(gguf_file)
        is_named = is_self_contained(gguf_file or name)  # a GGUF file that is alone in its folder is found unnamed
        if location.file and is_self_contained(location.file) and (is_named or not location.find(TOKENIZER_NAME)):
            parts = _read_gguf(Path(location.root) / location.file, settings)
        else:
            parts = read_folder(location, settings)
        tokenizer = cls(parts.backend, parts.special_tokens, parts.chat_template, parts.settings)
        tokenizer.name_or_path = name
        return tokenizer

    @property
    def is_fast(self) -> bool:
        """True: the library `tokenizers` does the work."""
        return True

    def __getattr__(self, name: str) -> Any:
        """Special tokens with roles that only some models have, such as `image_token` and `image_token_id`."""
        tokens = self.__dict__.get("special_tokens", {})
        role = name.removesuffix("_id")
        if role not in tokens:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return tokens[role] if role == name else self.convert_tokens_to_ids(tokens[role])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens})"
        )


def _read_gguf(file: Path, overrides: dict[str, Any]) -> Parts:
    """As `read_gguf`, with settings that count in place of those in the file."""
    parts = read_gguf(file)
    settings = complete(None, overrides, None)
    add_tokens(file, parts.backend, settings)
    template = by_name(settings.pop("chat_template", parts.chat_template))
    return Parts(parts.backend, parts.special_tokens | special_tokens_of(settings), template, settings)
