"""Chats to prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer import library
from flaxmodels.tokenizer.batch import BatchEncoding
from flaxmodels.tokenizer.encoding import EncodingMixin

if TYPE_CHECKING:
    Chat = Sequence[Mapping[str, Any]]


class ChatMixin(EncodingMixin):
    """The chat template, and what it makes of messages."""

    chat_template: str | dict[str, str] | None

    def apply_chat_template(
        self,
        conversation: Chat | Sequence[Chat],
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The tokens of a chat, or of several, or their texts.

        The names, the defaults and the results are those of transformers.

        Args:
            conversation: messages in their order, such as `{"role": "user", "content": "Hello"}`; or several chats.
            tools: functions that the model may call: JSON schemas, or functions of Python with types and a docstring.
            documents: what the model may quote, such as `{"title": "...", "text": "..."}`.
            chat_template: a template, or the name of one of this tokenizer's; None for its own.
            add_generation_prompt: whether the prompt ends where the completion of the assistant begins.
            continue_final_message: whether the prompt ends within the last message, so that the model goes on with it;
                a name says which of its fields that is.
            tokenize: whether to return tokens; a text otherwise.
            sanitize_control_tokens: not supported.
            padding: as in a call of the tokenizer.
            truncation: as in a call.
            max_length: as in a call.
            return_tensors: as in a call.
            return_dict: whether to return a `BatchEncoding`; only "input_ids" otherwise.
            return_assistant_tokens_mask: whether to return 1 for each token that the assistant wrote and 0 for each
                other, as "assistant_masks" `[batch, q_len]`. The template must mark them by `{% generation %}`.
            tokenizer_kwargs: further arguments of the call.
            **kwargs: further names that the template knows.

        Raises:
            FlaxModelsError: there is no chat template, it does not accept the messages, or it would take time or
                memory out of proportion to them (`flaxmodels.tokenizer.budget` has the limits).
        """
        template = self.get_chat_template(chat_template, tools)
        if not conversation:
            raise FlaxModelsError("conversation: expected at least one message, got none.")
        if sanitize_control_tokens:
            raise FlaxModelsError(
                "sanitize_control_tokens=True is not supported: take special tokens out of what users write, or refuse "
                "it."
            )
        if continue_final_message and add_generation_prompt:
            raise FlaxModelsError(
                "continue_final_message goes on with the last message, and add_generation_prompt begins a new one: say "
                "one."
            )
        if return_assistant_tokens_mask:
            _check_mask(tokenize and return_dict, continue_final_message)
        library.require("jinja2")
        from flaxmodels.tokenizer.messages import render_chat

        is_batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        chats: Any = conversation if is_batched else [conversation]
        names = {"tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt}
        rendered = [
            render_chat(template, chat, self.special_tokens | names | kwargs, continue_final_message) for chat in chats
        ]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if is_batched else texts[0]
        batch = self(
            texts if is_batched else texts[0],
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        if return_assistant_tokens_mask:
            masks = _assistant_masks(batch, [spans for _, spans in rendered], template)
            batch["assistant_masks"] = masks if is_batched or return_tensors else masks[0]
            batch.convert_to_tensors(return_tensors)
        return batch if return_dict else batch["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template that a chat is put into.

        Args:
            chat_template: a template, or the name of one of this tokenizer's; None for its own.
            tools: if there are some, a template that is called "tool_use" is taken before the one called "default".

        Raises:
            FlaxModelsError: there is none, or there are several and none is the default.
        """
        own = self.chat_template
        if not isinstance(own, dict):
            if chat_template is None and own is None:
                raise FlaxModelsError(
                    "this tokenizer has no chat template. Set its chat_template, or write the prompt without one."
                )
            return own if chat_template is None else chat_template  # type: ignore[return-value]
        if chat_template is not None:
            return own.get(chat_template, chat_template)
        for name in (["tool_use"] if tools is not None else []) + ["default"]:
            if name in own:
                return own[name]
        raise FlaxModelsError(
            "this tokenizer has several chat templates, and none of them is the default: say chat_template= with one "
            f"of {', '.join(map(repr, sorted(own)))}."
        )


def _check_mask(is_batch: bool, continued: bool | str) -> None:
    """Refuse arguments that a mask does not go with."""
    if not is_batch:
        raise FlaxModelsError("return_assistant_tokens_mask=True needs tokenize=True and return_dict=True.")
    if continued:
        raise FlaxModelsError(
            "return_assistant_tokens_mask=True is for whole messages, continue_final_message for none."
        )


def _assistant_masks(
    batch: BatchEncoding, spans: Sequence[Sequence[tuple[int, int]] | None], template: str
) -> list[list[int]]:
    """1 for each token in one of the spans of characters of its row, 0 for each other."""
    name = "return_assistant_tokens_mask: the chat template"
    if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
        marks = "{% generation %} ... {% endgeneration %}"
        raise FlaxModelsError(f"{name} does not mark what the assistant writes: it has no {marks}.")
    if None in spans:
        raise FlaxModelsError(
            f"{name} writes a {{% generation %}} block elsewhere than where it is, as in a macro: where it is in the "
            "prompt is not known."
        )
    return [_mask(row, index, batch, spans[index] or ()) for index, row in enumerate(batch.encodings or ())]


def _mask(row: Any, index: int, batch: BatchEncoding, spans: Sequence[tuple[int, int]]) -> list[int]:
    mask = [0] * len(row.ids)
    for start, end in spans:
        first, last = batch.char_to_token(index, start), batch.char_to_token(index, end - 1)
        if first is None:
            break  # it was cut off
        stop = len(mask) if last is None else last + 1
        mask[first:stop] = [1] * (stop - first)
    return mask
