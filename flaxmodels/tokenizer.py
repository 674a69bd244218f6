"""Text to token ids and back, and chats to prompts, without transformers.

A thin layer over the libraries `tokenizers` and `jinja2`, which are imported when they are first needed. The
GGUF part follows llama.cpp (github.com/ggml-org/llama.cpp, src/llama-vocab.cpp), the format's reference.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.reading import read_json

if TYPE_CHECKING:
    import jinja2
    import tokenizers

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


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

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads it from a folder with a `tokenizer.json`, or from a `.gguf` file.

        In a folder, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` count too if
        they exist. Raises `CheckpointError` if there is no tokenizer, or one that cannot be read, and
        `FlaxModelsError` if the library `tokenizers` is not installed.
        """
        _require("tokenizers")
        path = Path(path)
        return cls(*(_read_gguf(path) if path.suffix == ".gguf" else _read_folder(path)))

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
        """
        if padding not in ("left", "right"):
            raise FlaxModelsError(f"padding: expected 'left' or 'right', got {padding!r}.")
        self._truncate(max_length, self.backend.num_special_tokens_to_add(False) if add_special_tokens else 0)
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [row.ids for row in self.backend.encode_batch(texts, add_special_tokens=add_special_tokens)]
        width = max(map(len, rows), default=0)
        # The mask covers the padding, so that any id serves in a model that has none for it.
        input_ids = np.full((len(rows), width), self.pad_token_id or 0, np.int32)
        attention_mask = np.zeros_like(input_ids)
        for index, row in enumerate(rows):
            columns = slice(width - len(row), None) if padding == "left" else slice(len(row))
            input_ids[index, columns] = row
            attention_mask[index, columns] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """The text of the token ids `[q_len]`, without the special ones unless told otherwise."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """What decodes ids while they come, without the special ones unless told otherwise."""
        return TextStream(self, skip_special_tokens)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, to be tokenized with `add_special_tokens=False`.

        Args:
            messages: in their order, such as `{"role": "user", "content": "Hello"}`.
            add_generation_prompt: whether the prompt ends where the answer of the assistant begins.

        Raises:
            FlaxModelsError: there is no chat template, or it does not accept the messages.
        """
        if self.chat_template is None:
            raise FlaxModelsError(
                "this tokenizer has no chat template. Set its chat_template, or write the prompt without one."
            )
        _require("jinja2")
        from jinja2 import TemplateError

        absent = {"tools": None, "documents": None}
        names = {"messages": messages, "add_generation_prompt": add_generation_prompt, **absent}
        environment = _chat_environment()
        try:
            return environment.from_string(self.chat_template).render(self.special_tokens, **names)
        except (TemplateError, TypeError) as error:
            raise FlaxModelsError(f"the chat template does not accept these messages: {error}") from error

    def _truncate(self, max_length: int | None, added: int) -> None:
        if max_length is None:
            self.backend.no_truncation()
        elif max_length > added:
            self.backend.enable_truncation(max_length)
        else:
            raise FlaxModelsError(f"max_length: expected more than {added} special tokens, got {max_length}.")

    def _special(self, name: str) -> tuple[str | None, int | None]:
        token = self.special_tokens.get(name)
        return token, None if token is None else self.backend.token_to_id(token)


class TextStream:
    """The text of token ids that come bit by bit: its pieces make what `Tokenizer.decode` makes of all ids.

    A character that takes several tokens comes with the last of them. Where byte tokens end within a character,
    `decode` may replace the whole ones before it too; here these are written.

    Attributes:
        text: the pieces up to now.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True):
        self.text = ""
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._decoder = self._new_decoder()
        self._held: list[int] = []

    def __call__(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text that the next ids `[some]` add."""
        piece = "".join([self._step(int(token)) for token in ids])
        self.text += piece
        return piece

    def end(self) -> str:
        """The text that is left when no more ids come: of a character that is not complete."""
        piece = self._tokenizer.decode(self._held, self._skip)
        self.text += piece
        return piece

    def _step(self, token: int) -> str:
        backend = self._tokenizer.backend
        self._held.append(token)
        try:
            piece = self._decoder.step(backend, token) or ""
        except Exception:  # the library stops at bytes that would take back what it gave out
            self._decoder = self._new_decoder()
            piece = "".join([self._decoder.step(backend, held) or "" for held in self._held])
        if piece:
            self._held.clear()
        return piece

    def _new_decoder(self) -> tokenizers.decoders.DecodeStream:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(skip_special_tokens=self._skip)


_Parts = tuple["tokenizers.Tokenizer", dict[str, str], str | None]
"""What a `Tokenizer` is made of: backend, special tokens, chat template."""

_Maker = Callable[[Mapping[str, Any]], "tokenizers.Tokenizer"]
"""Makes a backend of the `tokenizer.ggml.` keys of a GGUF file."""


def _require(library: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise FlaxModelsError(
            f"the library {library!r} is needed here and cannot be imported: {error}. "
            'Install it with: pip install "flaxmodels-jax[demo]"'
        ) from error


@functools.cache
def _chat_environment() -> jinja2.Environment:
    """Jinja as chat templates expect it: sandboxed, and with the functions they call."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote, for training. A prompt takes what is in it."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def _build(path: Path, build: Callable[[], tokenizers.Tokenizer]) -> tokenizers.Tokenizer:
    try:
        return build()
    except Exception as error:  # the library raises nothing more special
        raise CheckpointError(f"{path} makes no tokenizer: {error}. Fetch or convert it again.") from error


def _read_folder(folder: Path) -> _Parts:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"there is no tokenizer.json in {folder}. Name a folder with one, or a .gguf file. transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) makes one of older files."
        )
    from tokenizers import Tokenizer as Backend

    backend = _build(file, lambda: Backend.from_file(str(file)))
    config = _json(folder / "tokenizer_config.json") | _json(folder / "special_tokens_map.json")
    # A token is a text, or a dict that says how the text is matched.
    stated = {name: config.get(name) for name in _SPECIAL_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in stated.items()}
    tokens = {name: text for name, text in texts.items() if text}
    return backend, tokens, _chat_template(folder / "chat_template.jinja", config.get("chat_template"))


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _chat_template(file: Path, stated: str | list[dict[str, str]] | None) -> str | None:
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(stated, list):
        return {named["name"]: named["template"] for named in stated}.get("default")
    return stated


_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")


@dataclass(frozen=True)
class _Words:
    """How byte-level BPE finds words: each expression isolates its matches in what the one before left."""

    expressions: tuple[str, ...]
    nfc: bool = False
    whole_words_first: bool = False
    add_bos: bool = False


_WORDS = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), _Words((_GPT2,))),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _Words((r"\p{N}", _GPT2))),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _Words((_LLAMA3,), whole_words_first=True, add_bos=True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _Words((_QWEN2,), nfc=True)),
}
"""By the key `tokenizer.ggml.pre`."""

_GGUF_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def _read_gguf(path: Path) -> _Parts:
    from flaxmodels.files.gguf import GGUFFile

    metadata = GGUFFile(path).metadata
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    make = _gguf_maker(path, keys)
    backend = _build(path, lambda: make(keys))
    ids = {name: keys[key] for name, key in _GGUF_IDS.items() if key in keys}
    tokens = {name: token for name, index in ids.items() if (token := backend.id_to_token(index)) is not None}
    return backend, tokens, metadata.get("tokenizer.chat_template")


def _gguf_maker(path: Path, keys: Mapping[str, Any]) -> _Maker:
    """What makes the backend of these keys, if they are supported and complete."""
    makers: dict[Any, tuple[_Maker, str]] = {
        "gpt2": (_byte_level, "merges"),
        "llama": (_sentencepiece, "scores"),
    }
    model, pre = keys.get("model"), keys.get("pre")
    if model not in makers or (model == "gpt2" and pre not in _WORDS):
        raise CheckpointError(
            f"{path}: a tokenizer of model {model!r}, pre {pre!r} is not supported. Supported: 'llama', and "
            f"'gpt2' with pre {', '.join(sorted(_WORDS))}. Use a folder with the model's tokenizer.json."
        )
    make, order = makers[model]
    missing = [f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", order) if key not in keys]
    if missing:
        raise CheckpointError(f"{path} makes no tokenizer: it lacks {', '.join(missing)}. Convert it again.")
    return make


def _byte_level(keys: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE, as in GPT-2: merges in the order they were learned."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    words = _WORDS[keys["pre"]]
    vocabulary = {token: index for index, token in enumerate(keys["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in keys["merges"]]
    backend = Backend(models.BPE(vocabulary, merges, ignore_merges=words.whole_words_first))
    if words.nfc:
        backend.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in words.expressions]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return _with_special_tokens(backend, keys, add_bos=words.add_bos)


def _sentencepiece(keys: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BPE of SentencePiece: every way to halve a token is a merge, in the order of the token's score."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    tokens = keys["tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    scored = sorted(zip(keys["scores"], tokens, keys["token_type"], strict=True), key=lambda each: -each[0])
    normal = (token for _, token, kind in scored if kind == _NORMAL)
    halves = ((token[:at], token[at:]) for token in normal for at in range(1, len(token)))
    merges = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    unknown = tokens[keys.get("unknown_token_id", 0)]
    backend = Backend(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    encoding: list[Any] = [normalizers.Replace(" ", "▁")]
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if keys.get("add_space_prefix", True):
        encoding.insert(0, normalizers.Prepend("▁"))
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.normalizer, backend.decoder = normalizers.Sequence(encoding), decoders.Sequence(decoding)
    return _with_special_tokens(backend, keys, add_bos=True)


def _with_special_tokens(backend: tokenizers.Tokenizer, keys: Mapping[str, Any], add_bos: bool) -> tokenizers.Tokenizer:
    """Keeps the tokens whole that the file marks so; adds BOS and EOS if it, or else `add_bos`, says so."""
    from tokenizers import AddedToken, processors

    tokens = keys["tokens"]
    whole = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, keys["token_type"], strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_tokens(whole)
    first = [tokens[keys["bos_token_id"]]] if keys.get("add_bos_token", add_bos) else []
    last = [tokens[keys["eos_token_id"]]] if keys.get("add_eos_token", False) else []
    if first or last:
        ids = [(token, backend.token_to_id(token)) for token in {*first, *last}]
        backend.post_processor = processors.TemplateProcessing(single=[*first, "$A", *last], special_tokens=ids)
    return backend
