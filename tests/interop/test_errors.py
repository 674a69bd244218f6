"""How errors show what stands in a file."""

from __future__ import annotations

import pytest

from interop.errors import listed, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.layers.0.weight", "model.layers.0.weight"),
        ("naïve 🦙 [/foo] it's", "naïve 🦙 [/foo] it's"),
        ("\x1b[31mred\r\n\t\0", r"\x1b[31mred\r\n\t\x00"),
        ("\ud800", r"\ud800"),
        ("a\u202eb\u2028\xa0", r"a\u202eb\u2028\xa0"),
        ("x" * 201, "x" * 200 + "..."),
        ([1, "\x1b"], r"[1, '\x1b']"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected


def test_listed():
    assert listed(["a", "\x1b"]) == r"a, \x1b"
    assert listed(range(7), most=5) == "0, 1, 2, 3, 4 and 2 more"
    assert listed(range(200)).endswith("98, 99 and 100 more")
