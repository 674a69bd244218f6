"""Tokenizers to folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flaxmodels.errors import CheckpointError, FlaxModelsError
from flaxmodels.files.commit import replacing
from flaxmodels.hub.mixin import PushToHubMixin
from flaxmodels.tokenizer.encoding import EncodingMixin
from flaxmodels.tokenizer.settings import FLAGS
from flaxmodels.tokenizer.templates import TEMPLATE_FILE, TEMPLATE_FOLDER

_NOT_WRITTEN = ("added_tokens_decoder", "add_bos_token", "add_eos_token", "name_or_path", "tokenizer_file")
"""What `tokenizer.json` says, and what is of this machine."""


class SavingMixin(PushToHubMixin, EncodingMixin):
    """`save_pretrained` and `push_to_hub`."""

    pushed_as = "tokenizer"
    chat_template: str | dict[str, str] | None
    settings: dict[str, Any]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """Writes the tokenizer into a folder, for `from_pretrained` and for transformers' AutoTokenizer.

        The files are `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and, if there is one chat
        template, `chat_template.jinja`; several are in `tokenizer_config.json`. They replace those of a tokenizer that
        is there, all at once or not at all; other files stay.

        Args:
            save_directory: the folder, made if absent.
            legacy_format: accepted as None or False; older vocabularies are not written.
            filename_prefix: accepted as None; nothing reads files with other names.
            push_to_hub: also push what was written.
            kwargs: arguments of `push_to_hub`.

        Returns:
            The paths of the files.

        Raises:
            CheckpointError: the disk is full or the folder is not writable, or it is a file.
            FlaxModelsError: `legacy_format` or `filename_prefix` is another.
            HubError, TypeError: as `push_to_hub`.
        """
        if legacy_format or filename_prefix:
            name = "legacy_format" if legacy_format else "filename_prefix"
            raise FlaxModelsError(f"{name} is not supported: tokenizer.json is what is written. Leave it out.")
        folder = Path(save_directory)
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file: name a folder.")
        texts = _texts(self)
        with self.pushing(folder, push_to_hub, kwargs):
            with replacing(folder, lambda staging: ()) as staging:
                for name, text in texts.items():
                    (staging / name).write_text(text, encoding="utf-8")
            _remove_templates(folder, keep=TEMPLATE_FILE in texts)
        return tuple(str(folder / name) for name in texts)


def _texts(tokenizer: SavingMixin) -> dict[str, str]:
    """The contents of the files by name."""
    template = tokenizer.chat_template
    files = {
        "tokenizer.json": _backend_text(tokenizer),
        "tokenizer_config.json": _json(_config(tokenizer)),
        "special_tokens_map.json": _json(_roles(tokenizer)),
    }
    return files | ({TEMPLATE_FILE: template} if isinstance(template, str) else {})


def _backend_text(tokenizer: SavingMixin) -> str:
    """The backend without the padding and truncation of its last call."""
    backend = tokenizer.backend
    backend.no_padding()
    backend.no_truncation()
    return backend.to_str(pretty=True)


def _config(tokenizer: SavingMixin) -> dict[str, Any]:
    kept = {name: _as_json(value) for name, value in tokenizer.settings.items() if name not in _NOT_WRITTEN}
    own = {
        name: getattr(tokenizer, name)
        for name in (
            *("model_max_length", "padding_side", "truncation_side", "model_input_names"),
            *("clean_up_tokenization_spaces", "split_special_tokens"),
        )
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **kept, **own, **_roles(tokenizer)}
    if isinstance(tokenizer.chat_template, dict):
        named = tokenizer.chat_template.items()
        config["chat_template"] = [{"name": name, "template": template} for name, template in named]
    return config


def _roles(tokenizer: SavingMixin) -> dict[str, Any]:
    """Special tokens by role, and those without one."""
    more = tokenizer.additional_special_tokens
    return dict(tokenizer.special_tokens) | ({"additional_special_tokens": more} if more else {})


def _as_json(value: Any) -> Any:
    """A setting as a file has it: an added token becomes an object."""
    if type(value).__name__ == "AddedToken":
        return {"content": value.content, **{flag: getattr(value, flag) for flag in FLAGS}}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return value


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _remove_templates(folder: Path, *, keep: bool) -> None:
    """Templates of a tokenizer that was there before would count in place of the new ones, or beside them."""
    stale = [*(folder / TEMPLATE_FOLDER).glob("*.jinja"), *([] if keep else [folder / TEMPLATE_FILE])]
    for file in stale:
        file.unlink(missing_ok=True)
