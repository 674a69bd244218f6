"""GGUF files that break the rules of the format, and metadata that makes no model."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from attacks.attack import Attack, Content, damaged, refused

FILE = "model.gguf"


def header(tensor_count: int, key_count: int, *rest: bytes) -> bytes:
    """A file of any content, however wrong."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + b"".join(rest)


def text(value: bytes) -> bytes:
    """A text with its length."""
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    """An entry of the metadata."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    """The description of a tensor."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def _value(value: object) -> tuple[int, bytes]:
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return 11, struct.pack("<q", value)
        case float():
            return 12, struct.pack("<d", value)
        case str():
            return 8, text(value.encode())
        case [*items]:
            kind, _ = _value(items[0])
            return 9, struct.pack("<IQ", kind, len(items)) + b"".join(_value(item)[1] for item in items)
    raise TypeError(value)


def model(metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """A file with these keys and tensors of zeros, float32, in shapes of numpy."""
    keys = [key(name.encode(), *_value(value)) for name, value in metadata.items()]
    infos, end = [], 0
    for name, shape in tensors.items():
        infos.append(tensor(name.encode(), list(shape[::-1]), 0, end))
        end += -(-4 * math.prod(shape) // 32) * 32
    head = header(len(tensors), len(keys), *keys, *infos)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(end)


LLAMA = {
    "general.architecture": "llama",
    "llama.vocab_size": 5,
    "llama.context_length": 8,
    "llama.embedding_length": 4,
    "llama.feed_forward_length": 6,
    "llama.block_count": 1,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
TENSORS = {
    "token_embd.weight": (5, 4),
    "output_norm.weight": (4,),
    "blk.0.attn_norm.weight": (4,),
    "blk.0.attn_q.weight": (4, 4),
    "blk.0.attn_k.weight": (4, 4),
    "blk.0.attn_v.weight": (4, 4),
    "blk.0.attn_output.weight": (4, 4),
    "blk.0.ffn_norm.weight": (4,),
    "blk.0.ffn_gate.weight": (6, 4),
    "blk.0.ffn_up.weight": (6, 4),
    "blk.0.ffn_down.weight": (4, 6),
}
_ONE_KEY = key(b"k", 0, b"\1")
_HUGE = struct.pack("<Q", 2**63)
_BROKEN: dict[str, tuple[Content, str]] = {
    "empty": (b"", "truncated or corrupt at byte 0 (4 more expected, 0 left)"),
    "not GGUF": (b"garbage", "not a GGUF file"),
    "cut short": (header(0, 0)[:-1], "truncated or corrupt at byte 16 (8 more expected, 7 left)"),
    "huge key count": (header(0, 2**63), f"its metadata claims {2**63} values, more than 2097152"),
    "huge tensor count": (header(2**63, 0), f"it claims {2**63} tensors, more than 262144"),
    "huge name": (header(0, 1, _HUGE), f"truncated or corrupt at byte 32 ({2**63} more expected, 0 left)"),
    "huge text": (
        header(0, 1, key(b"k", 8, _HUGE)),
        f"truncated or corrupt at byte 45 ({2**63} more expected, 0 left)",
    ),
    "huge array": (
        header(0, 1, key(b"k", 9, struct.pack("<I", 10) + _HUGE)),
        f"its metadata claims {2**63 + 1} values, more than 2097152",
    ),
    "huge array of texts": (
        header(0, 1, key(b"k", 9, struct.pack("<I", 8) + _HUGE)),
        f"its metadata claims {2**63 + 1} values, more than 2097152",
    ),
    "array of arrays": (
        header(0, 1, key(b"k", 9, struct.pack("<IQ", 9, 0))),
        "the value of 'k' has the unknown type 9",
    ),
    "unknown type": (header(0, 1, key(b"k", 13, b"")), "the value of 'k' has the unknown type 13"),
    "duplicate key": (header(0, 2, _ONE_KEY, _ONE_KEY), "the key 'k' is there twice"),
    "key not UTF-8": (header(0, 1, key(b"\xff", 0, b"\1")), "corrupt at byte 32: a name is not UTF-8"),
    "alignment": (
        header(0, 1, key(b"general.alignment", 4, struct.pack("<I", 24))),
        "general.alignment is 24, not a power of two",
    ),
    "no alignment": (
        header(0, 1, key(b"general.alignment", 8, text(b"x"))),
        "general.alignment is 'x', not a power of two",
    ),
    "dimensions": (header(1, 0, tensor(b"x", [1] * 5, 0, 0)), "tensor 'x' has 5 dimensions, more than 4"),
    "row": (header(1, 0, tensor(b"x", [33, 2], 8, 0)), "tensor 'x' has the impossible shape (2, 33)"),
    "scalar": (header(1, 0, tensor(b"x", [], 8, 0)), "tensor 'x' has the impossible shape ()"),
    "overflow": (
        header(1, 0, tensor(b"x", [2**62, 2**62], 0, 0)),
        f"tensor 'x' has the impossible shape ({2**62}, {2**62})",
    ),
    "no data": (header(1, 0, tensor(b"x", [2], 0, 0)), "tensor 'x' ends at byte 72 but the file has 57"),
    "hole": (
        header(2, 0, tensor(b"x", [2], 0, 0), tensor(b"y", [2], 0, 64)).ljust(300),
        "tensor 'y' is there twice or not at byte 32 of the data",
    ),
    "overlap": (
        header(2, 0, tensor(b"x", [2], 0, 0), tensor(b"y", [2], 0, 0)).ljust(300),
        "tensor 'y' is there twice or not at byte 32 of the data",
    ),
    "duplicate tensor": (
        header(2, 0, tensor(b"x", [2], 0, 0), tensor(b"x", [2], 0, 32)).ljust(300),
        "tensor 'x' is there twice or not at byte 32 of the data",
    ),
    "a token of 300 KB": (
        header(0, 1, key(b"k\x1b", 9, struct.pack("<IQ", 8, 1) + text(b"a" * 300_000))),
        "'k\\x1b' holds a string of 300000 bytes, more than 4096",
    ),
    "tensors of no elements for ever": (
        lambda: header(300_000, 0, *(tensor(b"%d" % number, [0], 0, 0) for number in range(300_000))),
        "it claims 300000 tensors, more than 262144",
    ),
}

_COUNT, _POSITIVE, _INDEX = "an integer above 0", "a number above 0", "an integer of at least 0"
_WRONG: list[tuple[str, object, str, str]] = [
    ("llama.block_count", "1", "'1'", _COUNT),
    ("llama.block_count", 0, "0", _COUNT),
    ("llama.block_count", True, "True", _COUNT),
    ("llama.vocab_size", -1, "-1", _COUNT),
    ("llama.vocab_size", 2**40, str(2**40), _COUNT),
    ("llama.context_length", 0.5, "0.5", _COUNT),
    ("llama.embedding_length", [4, 4], "[4, 4]", _COUNT),
    ("llama.feed_forward_length", "\x1b[2J" * 100, "'" + ("\\x1b[2J" * 100)[:199] + "...", _COUNT),
    ("llama.attention.head_count", 0, "0", _COUNT),
    ("llama.attention.head_count_kv", [1, 2], "[1, 2]", _COUNT),
    ("llama.attention.key_length", -2, "-2", _COUNT),
    ("llama.attention.layer_norm_rms_epsilon", -1.0, "-1.0", _POSITIVE),
    ("llama.attention.layer_norm_rms_epsilon", math.nan, "nan", _POSITIVE),
    ("llama.rope.freq_base", math.inf, "inf", _POSITIVE),
    ("llama.rope.freq_base", "x", "'x'", _POSITIVE),
    ("llama.rope.scaling.factor", "x", "'x'", _POSITIVE),
    ("llama.rope.scaling.type", 3, "3", "a string"),
    ("llama.expert_count", "x", "'x'", _INDEX),
    ("tokenizer.ggml.bos_token_id", -1, "-1", _INDEX),
    ("tokenizer.ggml.tokens", "x", "'x'", "a list of strings"),
    ("split.count", "x", "'x'", _INDEX),
]
_MODELS: dict[str, tuple[dict[str, object], dict[str, tuple[int, ...]], str]] = {
    "architecture not a string": (
        {"general.architecture": ["llama"]},
        {},
        "GGUF architecture ['llama'] is not implemented: expected 'llama' or 'gpt2'",
    ),
    "architecture with control characters": (
        {"general.architecture": "\x1b[2J"},
        {},
        "GGUF architecture '\\x1b[2J' is not implemented: expected 'llama' or 'gpt2'",
    ),
    "a billion blocks": (
        {"llama.block_count": 10**9},
        {},
        "the GGUF metadata cannot be used: llama.block_count is 1000000000, but the file has tensors of 1 blocks",
    ),
    "several problems": (
        {"llama.block_count": "1", "llama.vocab_size": 0},
        {},
        f"the GGUF metadata cannot be used: llama.vocab_size is 0, expected {_COUNT}; "
        f"llama.block_count is '1', expected {_COUNT}",
    ),
    "heads do not divide the rows": (
        {"llama.attention.head_count": 3},
        {},
        "tensors of the GGUF file do not have the shapes of its metadata: blk.0.attn_q.weight (4, 4), "
        "blk.0.attn_k.weight (4, 4)",
    ),
    "a query of another shape": (
        {},
        {"blk.0.attn_q.weight": (4,), "blk.0.attn_k.weight": ()},
        "tensors of the GGUF file do not have the shapes of its metadata: blk.0.attn_q.weight (4,), "
        "blk.0.attn_k.weight ()",
    ),
    "frequencies": (
        {},
        {"rope_freqs.weight": (4,)},
        "the GGUF file has rope_freqs.weight (Llama 3.1 frequency scaling), which does not say which rope_scaling "
        "it came from: load the safetensors of this model",
    ),
    "experts": (
        {"llama.expert_count": 8},
        {},
        "the GGUF file is a mixture of experts, which is not implemented for GGUF",
    ),
    "one of several files": (
        {"split.count": 3},
        {},
        "the GGUF file is one of 3: run llama-gguf-split --merge FIRST_FILE WHOLE_FILE",
    ),
}

ATTACKS: dict[str, Attack] = {name: damaged(FILE, *broken) for name, broken in _BROKEN.items()}
ATTACKS |= {
    f"{name}={str(value)[:10]!r}": refused(
        FILE,
        model(LLAMA | {name: value}, TENSORS),
        f"the GGUF metadata cannot be used: {name} is {shown}, expected {expected}",
    )
    for name, value, shown, expected in _WRONG
}
ATTACKS |= {
    name: refused(FILE, model(LLAMA | metadata, TENSORS | tensors), message)
    for name, (metadata, tensors, message) in _MODELS.items()
}
