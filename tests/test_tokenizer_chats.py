"""Chats of tokenizers against transformers': the same arguments, the same results."""

from __future__ import annotations

import dataclasses
import enum
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from small_tokenizers import write_byte_pairs
from test_tokenizer_calls import plain
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import get_json_schema

from flaxmodels.errors import FlaxModelsError
from flaxmodels.tokenizer import Tokenizer
from flaxmodels.tokenizer.tools import tool_schema

TEMPLATE = """\
{{- bos_token }}
{%- if tools %}tools: {{ tools | tojson }}{{ eos_token }}{% endif %}
{%- for document in documents or [] %}{{ document.title }}: {{ document.text }}{{ eos_token }}{% endfor %}
{%- for message in messages %}
    {{- message.role }}:{{ ' ' }}
    {%- if message.role == 'assistant' %}
        {%- if message.reasoning_content %}<{{ message.reasoning_content }}>{% endif %}
        {%- generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {%- elif message.content is string %}{{ message.content }}{{ eos_token }}
    {%- else %}{% for part in message.content %}{{ part.text }}{% endfor %}{{ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}assistant: {{ mood }}{% endif %}
"""
NAMED = {"default": TEMPLATE, "tool_use": "with tools " + TEMPLATE, "short": "{{ messages | length }}"}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Tokenizers, of which ours has read what transformers' has written."""
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    folder = tmp_path_factory.mktemp("chats")
    write_byte_pairs(folder, ["<s>", "</s>", "<pad>"], **settings, pad_token="<pad>", chat_template=TEMPLATE)
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder)
    ours = Tokenizer.from_pretrained(folder)
    assert ours.chat_template == TEMPLATE
    return ours, theirs


def message(role, content, **more):
    return {"role": role, "content": content, **more}


ASKED = [message("user", "the quick brown fox?")]
ANSWERED = [*ASKED, message("assistant", "she sells sea shells ")]
LONG = [message("system", "Be brief."), *ANSWERED, message("user", "Ünïcödé?"), message("assistant", "日本語 123")]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PARTS = [message("user", [{"type": "text", "text": "a "}, {"type": "image", "text": "b "}, {"type": "image"}])]
CHATS = {
    "nothing": (ASKED, {}),
    "prompt": (ASKED, {"add_generation_prompt": True}),
    "text": (LONG, {"tokenize": False}),
    "ids": (LONG, {"return_dict": False}),
    "several": ([ASKED, ANSWERED, LONG], {}),
    "several texts": ([ASKED, LONG], {"tokenize": False, "add_generation_prompt": True}),
    "several rows": ([ASKED, LONG], {"padding": True, "return_tensors": "np"}),
    "cut": (LONG, {"truncation": True, "max_length": 9}),
    "arrays": (ASKED, {"return_tensors": "np", "return_dict": False}),
    "side": ([ASKED, LONG], {"padding": True, "tokenizer_kwargs": {"padding_side": "left"}}),
    "tools": (ASKED, {"tools": [TOOL, TOOL], "tokenize": False}),
    "documents": (ASKED, {"documents": [{"title": "A", "text": "b c"}], "tokenize": False}),
    "other template": (ASKED, {"chat_template": "{{ messages[0].content }}!", "tokenize": False}),
    "names": (ASKED, {"mood": "happy", "add_generation_prompt": True, "tokenize": False, "bos_token": "<b>"}),
    "parts": (PARTS, {"tokenize": False}),
    "nulls": ([message("user", "a", name=None)], {"chat_template": "{{ 'name' in messages[0] }}", "tokenize": False}),
    "continued": (ANSWERED, {"continue_final_message": True, "tokenize": False}),
    "continued ids": ([ANSWERED, LONG], {"continue_final_message": True}),
    "continued parts": (PARTS[:1], {"continue_final_message": True, "tokenize": False}),
    "continued and trimmed": (
        ANSWERED,
        {"continue_final_message": True, "tokenize": False, "chat_template": "{{ messages[-1].content | trim }} end"},
    ),
    "reasoning": ([message("assistant", "b", thinking="why")], {"tokenize": False}),
    "continued reasoning": (
        [message("assistant", "", reasoning="because")],
        {"continue_final_message": "reasoning", "tokenize": False},
    ),
    "masks": (LONG, {"return_assistant_tokens_mask": True}),
    "several masks": ([LONG, ASKED, ANSWERED], {"return_assistant_tokens_mask": True, "padding": True}),
    "mask arrays": (LONG, {"return_assistant_tokens_mask": True, "return_tensors": "np"}),
    "cut masks": (LONG, {"return_assistant_tokens_mask": True, "truncation": True, "max_length": 40}),
    "left masks": (
        [LONG, ANSWERED],
        {"return_assistant_tokens_mask": True, "padding": True, "tokenizer_kwargs": {"padding_side": "left"}},
    ),
}


@pytest.mark.parametrize(("chat", "options"), CHATS.values(), ids=CHATS)
def test_chats_equal_transformers(both, chat, options):
    found, expected = (tokenizer.apply_chat_template(chat, **options) for tokenizer in both)
    if hasattr(expected, "keys"):
        assert plain(found) == plain(expected)
    elif options.get("return_tensors"):
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected
    assert "pad" not in str(chat)  # neither has changed the messages


@pytest.mark.parametrize("options", [{}, {"tools": [TOOL]}, {"chat_template": "short"}, {"chat_template": "{{ 1 }}"}])
def test_templates_by_name_equal_transformers(both, options):
    for tokenizer in both:
        tokenizer.chat_template = NAMED
    try:
        found, expected = (tokenizer.apply_chat_template(ASKED, tokenize=False, **options) for tokenizer in both)
        assert found == expected
        assert both[0].get_chat_template(**options) == both[1].get_chat_template(**options)
    finally:
        for tokenizer in both:
            tokenizer.chat_template = TEMPLATE


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "chat_templates").glob("*.jinja")), ids=lambda p: p.stem
)
def test_published_templates_equal_transformers(both, path):
    chat = [message("user", "the fox"), message("assistant", "jumps"), message("user", "over <b>?")]
    for options in ({}, {"tools": [TOOL]}, {"add_generation_prompt": True}):
        found, expected = (text_or_error(each, chat, chat_template=path.read_text(), **options) for each in both)
        assert found == expected


def text_or_error(tokenizer, chat, **options):
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, **options)
    except Exception:
        return "an error"


def test_templates_are_stored_where_transformers_finds_them(both, tmp_path):
    tokenizer = both[0]
    try:
        for template in (NAMED, TEMPLATE, None, {"short": "{{ 1 }}"}):
            tokenizer.chat_template = template
            tokenizer.save_pretrained(tmp_path)
            for auto in (Tokenizer, AutoTokenizer):
                assert auto.from_pretrained(tmp_path).chat_template == template
    finally:
        tokenizer.chat_template = TEMPLATE


def test_templates_in_a_folder_of_their_own_are_read(both, tmp_path):
    ours, theirs = both
    theirs.chat_template = NAMED
    try:
        theirs.save_pretrained(tmp_path)
    finally:
        theirs.chat_template = TEMPLATE
    assert sorted(path.name for path in (tmp_path / "additional_chat_templates").iterdir()) == [
        "short.jinja",
        "tool_use.jinja",
    ]
    assert Tokenizer.from_pretrained(tmp_path).chat_template == NAMED
    assert Tokenizer.from_pretrained(tmp_path, chat_template="{{ 1 }}").chat_template == "{{ 1 }}"
    ours.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


@dataclasses.dataclass
class Dated:
    role: str
    content: str


class Image:
    def save(self, path):
        raise AssertionError(path)


def test_templates_see_plain_data_alone(both):
    tokenizer = both[0]
    assert tokenizer.apply_chat_template([Dated("user", "a")], tokenize=False) == "<s>user: a</s>"
    parts = [message("user", [{"type": "image", "image": Image(), "size": np.int64(3)}])]
    template = "{{ messages[0].content[0].image }} {{ messages[0].content[0].size + 1 }}"
    assert tokenizer.apply_chat_template(parts, chat_template=template, tokenize=False) == "<Image> 4"
    with pytest.raises(FlaxModelsError, match="'str object' has no attribute 'save'"):
        tokenizer.apply_chat_template(parts, chat_template="{{ messages[0].content[0].image.save('x') }}")


REFUSED = {
    "empty": ([], {}, "conversation: expected at least one message, got none."),
    "no message": (["a"], {}, "conversation[0]: expected a dict, got str."),
    "document": (ASKED, {"documents": ["a"]}, "documents[0]: expected a dict, got str."),
    "sanitize": (
        ASKED,
        {"sanitize_control_tokens": True},
        "sanitize_control_tokens=True is not supported: take special tokens out of what users write, or refuse it.",
    ),
    "both": (
        ASKED,
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message goes on with the last message, and add_generation_prompt begins a new one: say one.",
    ),
    "mask of a text": (
        ASKED,
        {"return_assistant_tokens_mask": True, "tokenize": False},
        "return_assistant_tokens_mask=True needs tokenize=True and return_dict=True.",
    ),
    "mask of a part": (
        ASKED,
        {"return_assistant_tokens_mask": True, "continue_final_message": True},
        "return_assistant_tokens_mask=True is for whole messages, continue_final_message for none.",
    ),
    "mask without marks": (
        ASKED,
        {"return_assistant_tokens_mask": True, "chat_template": "{{ 1 }}"},
        "return_assistant_tokens_mask: the chat template does not mark what the assistant writes: it has no "
        "{% generation %} ... {% endgeneration %}.",
    ),
    "mask in a macro": (
        ASKED,
        {
            "return_assistant_tokens_mask": True,
            "chat_template": "{% macro m() %}a{% generation %}b{% endgeneration %}{% endmacro %}{{ m() }}",
        },
        "return_assistant_tokens_mask: the chat template writes a {% generation %} block elsewhere than where it is, "
        "as "
        "in a macro: where it is in the prompt is not known.",
    ),
    "no field": (
        [message("user", None)],
        {"continue_final_message": True},
        "continue_final_message: expected 'content' in the last message, which has none.",
    ),
    "unknown field": (
        [message("user", "a", other="b")],
        {"continue_final_message": "other"},
        "continue_final_message: expected 'other' in the chat template, which has none.",
    ),
    "no text": (
        [message("user", [{"type": "image"}])],
        {"continue_final_message": True},
        "continue_final_message: expected a text in the last message, which has none.",
    ),
    "not written": (
        ASKED,
        {"continue_final_message": True, "chat_template": "content"},
        "continue_final_message: the chat template does not write the last message as it is.",
    ),
}


@pytest.mark.parametrize(("chat", "options", "refusal"), REFUSED.values(), ids=REFUSED)
def test_chats_that_cannot_be_meant_are_refused(both, chat, options, refusal):
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(refusal)}$"):
        both[0].apply_chat_template(chat, **options)


def test_templates_without_a_default_are_refused(both):
    tokenizer = both[0]
    tokenizer.chat_template = {"b": "1", "a": "2"}
    try:
        message = (
            "this tokenizer has several chat templates, and none of them is the default: say chat_template= with one "
            "of "
            "'a', 'b'."
        )
        with pytest.raises(FlaxModelsError, match=f"^{re.escape(message)}$"):
            tokenizer.apply_chat_template(ASKED)
    finally:
        tokenizer.chat_template = TEMPLATE


class Color(enum.Enum):
    RED = "red"
    TWO = 2


def search(
    query: str,
    limits: list[int] | None,
    kind: Literal["web", "image"],
    point: tuple[float, str],
    where: dict[str, int],
    mixed: int | str,
    any_of: list[int] | dict,
    color: Color = Color.RED,
    anything: Any = None,
    drink: str = "tea",
    flag: bool = True,
) -> list[str]:
    """Looks for something.

    On two lines.

    Args:
        query: What to look for,
            on two lines.
        limits: At most as many.
        kind: Of results.
        point: A place.
        where: A dict.
        mixed: One or the other.
        any_of: One or the other.
        color: Of it.
        anything: At all.
        drink: To have with it (choices: ["tea ", "coffee"])
        flag: Or not.

    Returns:
        What was found.
    """
    raise AssertionError


def quiet(a: int) -> object:
    """Does nothing.

    Args:
        a: A number.
    """
    raise AssertionError


class Holder:
    def method(self, a: float):
        """A method.

        Args:
            a: A number.
        """


@pytest.mark.parametrize("tool", [search, quiet, Holder().method], ids=["search", "quiet", "method"])
def test_functions_are_described_as_in_transformers(tool):
    assert tool_schema(tool, 0) == get_json_schema(tool)


def undescribed(a: int):
    """Has no arguments section."""


def untyped(a):
    """Has none.

    Args:
        a: A number.
    """


def odd(a: set[int]):
    """Takes a set.

    Args:
        a: It.
    """


WRONG = {
    "number": (5, "expected a JSON schema or a function, got int."),
    "no docstring": (lambda: 1, "<lambda> is described in a way that is not understood: it has no docstring."),
    "no description": (
        undescribed,
        "undescribed is described in a way that is not understood: 'a' has no description in its docstring.",
    ),
    "no type": (untyped, "untyped is described in a way that is not understood: 'a' has no type."),
    "type": (odd, "odd is described in a way that is not understood: the type set[int] has no JSON schema."),
}


@pytest.mark.parametrize(("tool", "reason"), WRONG.values(), ids=WRONG)
def test_tools_that_are_not_understood_are_refused(both, tool, reason):
    with pytest.raises(FlaxModelsError, match=f"^{re.escape(f'tools[1]: {reason}')}$"):
        both[0].apply_chat_template(ASKED, tools=[TOOL, tool])
