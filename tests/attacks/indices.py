"""Indices of shards that name what is no shard, or shards that are not of one checkpoint."""

from __future__ import annotations

import json

import numpy as np
from attacks.attack import Attack, Content
from attacks.msgpack import FOUR, packed
from attacks.safetensors import entry, raw

INDEX = "model.safetensors.index.json"


def shard(name: str, value: float, **metadata: str) -> bytes:
    """A safetensors file with one number."""
    header = ({"__metadata__": metadata} if metadata else {}) | {name: entry(0, 4)}
    return raw(header, np.float32(value).tobytes())


def _index(weight_map: object, **files: Content) -> dict[str, Content]:
    shards = {name.replace("__", "."): content for name, content in files.items()}
    return {INDEX: json.dumps({"weight_map": weight_map}).encode(), **shards}


def _again(problem: str) -> str:
    return f"{INDEX}: {problem}. Download or copy it again."


def _fix(problem: str) -> str:
    return f"{INDEX}: {problem}. Fix its weight_map."


_NO_MAP = _again("weight_map is not a map of tensor names to file names")
ATTACKS: dict[str, Attack] = {
    "not an object": Attack({INDEX: b"[]"}, _again("invalid JSON (not an object)")),
    "not JSON": Attack({INDEX: b""}, _again("invalid JSON (Expecting value: line 1 column 1 (char 0))")),
    "a tensor twice": Attack({INDEX: b'{"weight_map": {"a": "x", "a": "y"}}'}, _again("invalid JSON (duplicate keys)")),
    "nested": Attack(
        {INDEX: b'{"weight_map": ' + b"[" * 100_000},
        _again("invalid JSON (maximum recursion depth exceeded while decoding a JSON array from a unicode string)"),
    ),
    "no map": Attack({INDEX: b"{}"}, _NO_MAP),
    "a list for a map": Attack(_index(["x"]), _NO_MAP),
    "a number for a file": Attack(_index({"a": 1}), _NO_MAP),
    "an empty map": Attack(_index({}), _again("weight_map is empty")),
    "itself": Attack(_index({"a": INDEX}), _fix(f"names '{INDEX}' as shards")),
    "another index": Attack(
        _index({"a": "b.safetensors.index.json"}, **{"b.safetensors.index.json": _index({"a": INDEX})[INDEX]}),
        _fix("names 'b.safetensors.index.json' as shards"),
    ),
    "a pickle": Attack(
        _index({"a": "pytorch_model.bin"}, pytorch_model__bin=b"x"),
        _fix("names shards that are not .safetensors files: pytorch_model.bin"),
    ),
    **{
        f"outside its folder: {file!r}": Attack(
            _index({"a": file, "b": "../b"}), _fix(f"names files outside its folder: {names}")
        )
        for file, names in {
            "../model.safetensors": "'../b', '../model.safetensors'",
            "/etc/passwd": "'../b', '/etc/passwd'",
            "sub/model.safetensors": "'../b', 'sub/model.safetensors'",
            "..": "'..', '../b'",
            ".": "'.', '../b'",
            "": "'', '../b'",
            "a\\b": "'../b', 'a\\b'",
            "C:x": "'../b', 'C:x'",
            "a\0": "'../b', 'a\\x00'",
            "/\x1b[2J": "'../b', '/\\x1b[2J'",
        }.items()
    },
    "shards that are absent": Attack(
        _index({"a": "a.safetensors", "b": "\x1b[2J.safetensors"}, a__safetensors=shard("a", 1)),
        f"{INDEX}: shards that it names are absent: \\x1b[2J.safetensors. Download them too.",
    ),
    "tensors that are absent": Attack(
        _index({"a": "a.safetensors", "b\x1b": "a.safetensors"}, a__safetensors=shard("a", 1)),
        _again("the shards lack tensors that the index names: b\\x1b (a.safetensors)"),
    ),
    "a shard that is damaged": Attack(
        _index({"a": "a.safetensors"}, a__safetensors=shard("a", 1)[:-1]),
        "a.safetensors: the header describes 73 bytes but the file has 72. Download or copy it again.",
    ),
    "two values of a tensor": Attack(
        _index(
            {"a": "1.safetensors", "b": "2.safetensors"},
            **{"1__safetensors": shard("a", 1), "2__safetensors": raw({"a": entry(0, 4), "b": entry(4, 8)}, bytes(8))},
        ),
        f"{INDEX}: shards have other values for tensors that another shard has: a (2.safetensors). "
        "Delete shards that are not of this checkpoint.",
    ),
    "two layouts": Attack(
        _index(
            {"a": "1.safetensors", "b": "2.safetensors"},
            **{"1__safetensors": shard("a", 1, format="pt"), "2__safetensors": shard("b", 1, format="flax")},
        ),
        f"{INDEX}: its shards are in different layouts: 1.safetensors (torch), 2.safetensors (flax). Save them in one.",
    ),
    "msgpack named safetensors": Attack(
        _index({"a": "a.safetensors"}, a__safetensors=packed({"a": FOUR})),
        "a.safetensors: the header claims 10489729124357218689 bytes but the file has 21. Download or copy it again.",
    ),
}
