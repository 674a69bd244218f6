"""Special tokens around texts, by kind of tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

_TEMPLATES: Mapping[str, tuple[str, str]] = {
    "bert": ("cls A sep", "cls A sep B:1 sep:1"),
    "albert": ("cls A sep", "cls A sep B:1 sep:1"),
    "mpnet": ("cls A sep", "cls A sep sep B:1 sep:1"),
    **dict.fromkeys(("xlm-roberta", "camembert"), ("bos A eos", "bos A eos eos B eos")),
    "t5": ("A eos", "A eos B eos"),
    "pegasus": ("A eos", "A B eos"),
    "mbart": ("A eos lang", "A B eos lang"),
    "mbart50": ("lang A eos", "lang A B eos"),
}
"""By kind: what is around one text, and what around two. Roles and texts, with token types that are not 0."""


def post_processor(
    kind: str, backend: tokenizers.Tokenizer, tokens: Mapping[str, str], settings: Mapping[str, Any]
) -> tokenizers.processors.PostProcessor:
    """What adds special tokens to texts.

    Args:
        kind: of a family.
        backend: what knows the ids of the tokens.
        tokens: texts by role.
        settings: of `tokenizer_config.json`.

    Raises:
        LookupError: a token has no id.
    """
    from tokenizers import processors

    names = {role.removesuffix("_token"): token for role, token in tokens.items()}
    names["lang"] = settings.get("src_lang") or ""
    if kind in ("roberta", "clip"):
        ends = ("eos", "bos") if kind == "clip" else ("sep", "cls")
        trim = kind != "clip" and settings.get("trim_offsets") is not False
        sep, cls = (_with_id(backend, names, end) for end in ends)
        return processors.RobertaProcessing(sep, cls, trim, bool(settings.get("add_prefix_space")))
    if kind in _TEMPLATES:
        return _template(backend, names, *_TEMPLATES[kind])
    if kind == "whisper":
        start, single = _whisper(settings)
        return _template(backend, names | start, f"{single} A eos", f"{single} A B:1 eos:1")
    return bos_eos_processor(backend, tokens, settings)


def bos_eos_processor(
    backend: tokenizers.Tokenizer, tokens: Mapping[str, str], settings: Mapping[str, Any]
) -> tokenizers.processors.PostProcessor:
    """What puts the token that begins a text before it, and the one that ends it after it, if settings say so.

    Args:
        backend: what knows their ids.
        tokens: texts by role.
        settings: "add_bos_token" and "add_eos_token".
    """
    names = {role.removesuffix("_token"): token for role, token in tokens.items()}
    bos, eos = (end if settings.get(f"add_{end}_token") and end in names else "" for end in ("bos", "eos"))
    single = f"{bos} A {eos}"
    return _template(backend, names, single, f"{single} {bos and 'bos:1'} B:1 {eos and 'eos:1'}")


def _template(
    backend: tokenizers.Tokenizer, names: Mapping[str, str], single: str, pair: str
) -> tokenizers.processors.PostProcessor:
    from tokenizers import processors

    parts = {part.partition(":")[0] for part in pair.split()} - {"A", "B"}
    ids = [_with_id(backend, names, part) for part in sorted(parts)]
    written = ([_piece(part, names) for part in template.split()] for template in (single, pair))
    return processors.TemplateProcessing(*written, special_tokens=list(dict.fromkeys(ids)))


def _with_id(backend: tokenizers.Tokenizer, names: Mapping[str, str], part: str) -> tuple[str, int]:
    """The token that a part of a template stands for, and its id."""
    token = names.get(part)
    index = None if token is None else backend.token_to_id(token)
    if token is None or index is None:
        wanted = f"{part}_token" if token is None else f"token {token!r}"
        raise LookupError(f"it has no {wanted}, which is put around texts")
    return token, index


def _piece(part: str, names: Mapping[str, str]) -> str:
    """A part of a template as the library writes it, such as "$A:0" or "[SEP]:1"."""
    name, _, token_type = part.partition(":")
    return f"{'$' + name if name in ('A', 'B') else names[name]}:{token_type or 0}"


def _whisper(settings: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The tokens that a transcription begins with, and their names in a template."""
    stated = {"language": settings.get("language"), "task": settings.get("task")}
    tokens = ["startoftranscript", *filter(None, stated.values())]
    tokens += [] if settings.get("predict_timestamps") else ["notimestamps"]
    return {token: f"<|{token}|>" for token in tokens}, " ".join(tokens)
