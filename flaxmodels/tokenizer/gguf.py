"""Tokenizers in GGUF files, made as llama.cpp (github.com/ggml-org/llama.cpp, src/llama-vocab.cpp) makes them.

llama.cpp is the format's reference. What contradicts it is refused, and so is what would take time out of proportion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import CheckpointError
from flaxmodels.tokenizer.conversion.merges import halves
from flaxmodels.tokenizer.conversion.spm_file import CONTROL, MAX_PIECE_CHARS, NORMAL, USER_DEFINED
from flaxmodels.tokenizer.excerpts import excerpt, is_text
from flaxmodels.tokenizer.parts import Parts, build

if TYPE_CHECKING:
    import tokenizers

_PREFIX = "tokenizer.ggml."

_Maker = Callable[[Mapping[str, Any]], "tokenizers.Tokenizer"]
"""Makes a backend of the `tokenizer.ggml.` keys of a GGUF file."""

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

_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def read_gguf(path: Path) -> Parts:
    """Backend, special tokens and chat template of a GGUF file.

    Raises:
        CheckpointError: the file cannot be read, or its tokenizer is not supported, incomplete, contradicts itself,
            or has values of wrong types.
    """
    from flaxmodels.files.gguf import GGUFFile

    metadata = GGUFFile(path).metadata
    keys = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    template = metadata.get("tokenizer.chat_template")
    make = _maker(path, keys)
    problems = [*_type_problems(keys, template)] or [*_value_problems(keys)]
    if problems:
        raise CheckpointError(f"{path} makes no tokenizer: {'; '.join(problems)}. Convert it again.")
    # The names that llama.cpp gives to tokens without a text.
    keys["tokens"] = [token or f"[EMPTY_{index}]" for index, token in enumerate(keys["tokens"])]
    tokens = {name: keys["tokens"][keys[key]] for name, key in _IDS.items() if key in keys}
    return Parts(build(path, lambda: make(keys)), tokens, template, {})


def _maker(path: Path, keys: Mapping[str, Any]) -> _Maker:
    """What makes the backend of these keys, if they are supported."""
    makers: Mapping[str, _Maker] = {"gpt2": _byte_level, "llama": _sentencepiece}
    model, pre = keys.get("model"), keys.get("pre")
    if model == "llama" or (model == "gpt2" and isinstance(pre, str) and pre in _WORDS):
        return makers[model]
    raise CheckpointError(
        f"{path}: a tokenizer of model {excerpt(model)}, pre {excerpt(pre)} is not supported. Supported: 'llama', and "
        f"'gpt2' with pre {', '.join(sorted(_WORDS))}. Use a folder with the model's tokenizer.json."
    )


def _list_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(item) in types and item == item for item in value)


_Check = tuple[Callable[[Any], bool], str]
_CHECKS: Mapping[str, _Check] = {
    **dict.fromkeys(("tokens", "merges"), (_list_of(str), "a list of strings")),
    "token_type": (_list_of(int), "a list of integers"),
    "scores": (_list_of(float, int), "a list of numbers"),
    **dict.fromkeys(_IDS.values(), (lambda value: type(value) is int, "a token id")),
    **dict.fromkeys(
        ("add_bos_token", "add_eos_token", "add_space_prefix"),
        (lambda value: type(value) is bool, "true or false"),
    ),
}
"""What the keys that are used may be."""


def _type_problems(keys: Mapping[str, Any], template: Any) -> Iterator[str]:
    """What is absent, and what is there and cannot be meant."""
    needed = ["tokens", "token_type", "merges" if keys["model"] == "gpt2" else "scores"]
    needed += [f"{end}_token_id" for end in ("bos", "eos") if _adds(keys, end)]
    if missing := [_PREFIX + key for key in needed if key not in keys]:
        yield f"it lacks {', '.join(missing)}"
    for key, (is_right, expected) in _CHECKS.items():
        if key in keys and not is_right(keys[key]):
            yield f"{_PREFIX}{key}: expected {expected}, got {excerpt(keys[key])}"
    if template is not None and not is_text(template):
        yield f"tokenizer.chat_template: expected a string, got {excerpt(template)}"


def _value_problems(keys: Mapping[str, Any]) -> Iterator[str]:
    """Where values of the right types contradict each other or the format."""
    tokens = keys["tokens"]
    for key in ("token_type", "scores"):
        if key in keys and len(keys[key]) != len(tokens):
            yield f"{_PREFIX}{key}: expected {len(tokens)} values, one for each token, got {len(keys[key])}"
    for key in _IDS.values():
        if key in keys and not 0 <= keys[key] < len(tokens):
            yield f"{_PREFIX}{key}: expected a token id from 0 to {len(tokens) - 1}, got {keys[key]}"
    repeated = {token for token, count in Counter(filter(None, tokens)).items() if count > 1}
    longest = MAX_PIECE_CHARS if keys["model"] == "llama" else len(max(tokens, key=len, default=""))
    wrong = {
        "tokens": {
            "expected UTF-8": lambda token: not is_text(token),
            "expected a token once": repeated.__contains__,
            f"expected at most {longest} characters": lambda token: len(token) > longest,
        },
        "merges": {"expected two tokens with a space between them": lambda merge: len(merge.split(" ")) != 2},
    }
    for key, reasons in wrong.items():
        for reason, is_wrong in reasons.items():
            found = next((pair for pair in enumerate(keys.get(key, ())) if is_wrong(pair[1])), None)
            if found is not None:
                yield f"{_PREFIX}{key}[{found[0]}]: {reason}, got {excerpt(found[1])}"


def _adds(keys: Mapping[str, Any], end: str) -> bool:
    """Whether the token "bos" or "eos" is added to a text."""
    usual = end == "bos" and (keys["model"] == "llama" or _WORDS[keys["pre"]].add_bos)
    return keys.get(f"add_{end}_token", usual)


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
    return _with_special_tokens(backend, keys)


def _sentencepiece(keys: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BPE of SentencePiece: every way to halve a token is a merge, in the order of the token's score."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    tokens = keys["tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    normal = (index for index, kind in enumerate(keys["token_type"]) if kind == NORMAL)
    merges = halves(tokens, keys["scores"], normal)
    unknown = tokens[keys.get("unknown_token_id", 0)]
    backend = Backend(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    encoding: list[Any] = [normalizers.Replace(" ", "▁")]
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if keys.get("add_space_prefix", True):
        encoding.insert(0, normalizers.Prepend("▁"))
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.normalizer, backend.decoder = normalizers.Sequence(encoding), decoders.Sequence(decoding)
    return _with_special_tokens(backend, keys)


def _with_special_tokens(backend: tokenizers.Tokenizer, keys: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Keeps the tokens whole that the file marks so; adds BOS and EOS if it says so, or its kind does."""
    from tokenizers import AddedToken, processors

    tokens = keys["tokens"]
    whole = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, keys["token_type"], strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    backend.add_tokens(whole)
    first = [tokens[keys["bos_token_id"]]] if _adds(keys, "bos") else []
    last = [tokens[keys["eos_token_id"]]] if _adds(keys, "eos") else []
    if first or last:
        ids = [(token, backend.token_to_id(token)) for token in {*first, *last}]
        backend.post_processor = processors.TemplateProcessing(single=[*first, "$A", *last], special_tokens=ids)
    return backend
