"""The formats of `fuzz.py`: valid files of each, and how the library reads them."""

from __future__ import annotations

import functools
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

from flaxmodels.files.location import resolve
from flaxmodels.files.weights import find_weights
from interop.source import Header

Files = Mapping[str, bytes]
"""Contents by path in a folder."""

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.ones(5, ml_dtypes.bfloat16),
    "c": np.array(7, np.int64),
    "e_blocks": np.arange(64, dtype=np.uint8).reshape(1, 2, 2, 16),
    "e_scales": np.full((1, 2, 2), 127, np.uint8),
}
HEADERS = {name: Header(array.shape, array.dtype) for name, array in TENSORS.items()}


@dataclass(frozen=True)
class Format:
    """What is damaged, and what reads it.

    Attributes:
        make: the folders of which one file is damaged each time.
        read: reads the folder, and does all that its contents may make fail.
        damaged: the files that are damaged; all by default.
        share: how many files of it come on one of the slowest format.
        modules: imported before processes are forked that read many files.
    """

    make: Callable[[], list[Files]]
    read: Callable[[Path], object]
    damaged: tuple[str, ...] = ()
    share: int = 10
    modules: tuple[str, ...] = ()

    def load(self) -> list[Files]:
        """The folders, once the modules are imported."""
        for module in self.modules:
            importlib.import_module(module)
        return self.make()


def contents(write: Callable[[Path], object]) -> Files:
    """The files that `write` leaves in a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        found = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in found}


def read_weights(path: Path) -> None:
    """Open the weights of a folder or file, and read each tensor whole and in part."""
    source = find_weights(resolve(path)).source
    for name, header in source.headers.items():
        array = source.read(name)
        assert (array.shape, array.dtype) == (header.shape, header.dtype)
        source.read(name, tuple(slice(size // 3, size - size // 4) for size in header.shape))


# ---- weights


def _safetensors() -> list[Files]:
    from flaxmodels.files.safetensors import write_safetensors

    def write(folder: Path, metadata: dict[str, str]) -> None:
        write_safetensors(folder / "model.safetensors", HEADERS, TENSORS.__getitem__, metadata)

    return [contents(functools.partial(write, metadata=metadata)) for metadata in ({"format": "pt"}, {})]


def _msgpack() -> list[Files]:
    from flaxmodels.files import msgpack

    headers = {f"params/layer/{name}": header for name, header in HEADERS.items()}

    def write(folder: Path, chunk_bytes: int) -> None:
        with mock.patch.object(msgpack, "MAX_CHUNK_BYTES", chunk_bytes):
            msgpack.write_msgpack(folder / "flax_model.msgpack", headers, lambda name: TENSORS[name.split("/")[-1]])

    return [contents(functools.partial(write, chunk_bytes=size)) for size in (1 << 30, 16)]


def _gguf() -> list[Files]:
    import gguf

    def write(folder: Path, architecture: str, epsilon: str, tensors: Mapping[str, tuple[int, ...]]) -> None:
        writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
        sizes = {"vocab_size": 5, "context_length": 8, "embedding_length": 4, "feed_forward_length": 32}
        for key, value in (sizes | {"block_count": 1, "attention.head_count": 2}).items():
            writer.add_uint32(f"{architecture}.{key}", value)
        writer.add_float32(f"{architecture}.{epsilon}", 1e-5)
        writer.add_string("llama.rope.scaling.type", "linear")
        writer.add_float32("llama.rope.scaling.factor", 2.0)
        writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "naïve", "c", "d"])
        writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 0.0, -1.0, 2.0])
        writer.add_uint32("tokenizer.ggml.bos_token_id", 0)
        for name, shape in tensors.items():
            writer.add_tensor(name, np.zeros(shape, np.float32))
        writer.add_tensor(
            "blk.0.ffn_down.weight", np.zeros((4, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0
        )
        steps = (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close)
        for step in steps:
            step()

    llama = {"token_embd.weight": (5, 4), "blk.0.attn_q.weight": (4, 4), "blk.0.attn_k.weight": (4, 4)}
    gpt2 = {"token_embd.weight": (5, 4), "blk.0.attn_qkv.weight": (12, 4), "blk.0.attn_qkv.bias": (12,)}
    return [
        contents(lambda folder: write(folder, "llama", "attention.layer_norm_rms_epsilon", llama)),
        contents(lambda folder: write(folder, "gpt2", "attention.layer_norm_epsilon", gpt2)),
    ]


def _read_gguf(folder: Path) -> None:
    resolve(folder / "model.gguf").config()
    read_weights(folder / "model.gguf")


def _index() -> list[Files]:
    from flaxmodels.files.safetensors import write_safetensors
    from flaxmodels.files.shards import index_json

    def write(folder: Path) -> None:
        names = list(HEADERS)
        shards = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
        for file, part in shards.items():
            write_safetensors(folder / file, {name: HEADERS[name] for name in part}, TENSORS.__getitem__)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_json(shards, HEADERS)))

    return [contents(write)]


def _hdf5() -> list[Files]:
    import h5py

    def write(folder: Path, library: str) -> None:
        with h5py.File(folder / "tf_model.h5", "w", libver=library) as file:
            file["bert/tf_bert/bert/layer_._0/dense/kernel:0"] = TENSORS["a.weight"]
            file["bert/tf_bert/bert/layer_._0/dense/bias:0"] = np.ones(4, np.float16)
            file["c/scalar:0"] = TENSORS["c"]
            file.attrs["layer_names"] = np.array([b"bert", b"c"])
            file["c"].attrs["weight_names"] = np.array([b"scalar:0"])

    return [contents(functools.partial(write, library=library)) for library in ("earliest", "latest")]


def _torch() -> list[Files]:
    import torch

    from interop.torch_bridge import from_numpy

    tensors = {name: from_numpy(array) for name, array in TENSORS.items()}

    def write(folder: Path, zipped: bool) -> None:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    return [contents(functools.partial(write, zipped=zipped)) for zipped in (True, False)]


def _orbax() -> list[Files]:
    import orbax.checkpoint as ocp

    tree = {"params": {"layer": {"kernel": TENSORS["a.weight"], "bias": np.ones(4, np.float32)}, "c": TENSORS["c"]}}

    def write(folder: Path, options: dict[str, Any]) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(folder / "flax_model.orbax", tree)

    kinds: tuple[dict[str, Any], ...] = ({}, {"use_ocdbt": False}, {"use_zarr3": True})
    return [contents(functools.partial(write, options=kind)) for kind in kinds]


# ---- texts


def _tokenizers() -> list[Files]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    pieces = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hello": 3, "##s": 4, "world": 5}
    byte_level = Tokenizer(models.BPE(letters | {"he": 26, "hel": 27}, [("h", "e"), ("he", "l")], byte_fallback=True))
    byte_level.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]
    )
    byte_level.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("_", " "), decoders.Strip(" ", 1, 0)]
    )
    word_piece = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    word_piece.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Replace("_", " ")])
    word_piece.pre_tokenizer, word_piece.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    around = [("[CLS]", 1), ("[SEP]", 2)]
    word_piece.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=around)
    word_piece.enable_truncation(8)
    word_piece.enable_padding()
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁hello", -1.0), ("▁", -2.0), ("world", -3.0)], unk_id=0))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = Tokenizer(models.WordLevel({"hello": 0, "world": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    found = (byte_level, word_piece, unigram, words)
    for tokenizer in found:
        tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("</s>", normalized=False)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False, "__type": "AddedToken"},
        "pad_token": None,
        "add_bos_token": True,
        "model_max_length": 8,
        "padding_side": "left",
        "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
        "chat_template": "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    }
    texts = {"tokenizer_config.json": json.dumps(config).encode(), "special_tokens_map.json": b'{"bos_token": "<s>"}'}
    return [{"tokenizer.json": tokenizer.to_str().encode(), **texts} for tokenizer in found]


def _read_tokenizer(path: Path) -> None:
    from flaxmodels.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(path)
    ids = tokenizer(["hello world", "", "naïve 🦙 <s> 123"], truncation=True, max_length=8)["input_ids"]
    for row in ids:
        tokenizer.decode(row)
        stream = tokenizer.stream()
        stream(row)
        stream.end()
    if tokenizer.chat_template is not None:
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])


def _vocabularies() -> list[Files]:
    """Folders with vocabularies that are older than `tokenizer.json`."""
    models = Path(__file__).parent / "fixtures" / "sentencepiece"
    classes = {"t5": "T5Tokenizer", "xlm-roberta": "MBartTokenizer", "llama": "LlamaTokenizer"}
    words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n##s\nworld\n"
    pairs = {"vocab.json": b'{"<|endoftext|>": 0, "h": 1, "e": 2, "he": 3}', "merges.txt": b"#version: 0.2\nh e\n"}
    added = {"added_tokens.json": b'{"<a>": 4}'}
    configs = [{"tokenizer_class": name} for name in ("BertTokenizer", "GPT2Tokenizer", *classes.values())]
    files = [{"vocab.txt": words.encode()}, pairs | added]
    files += [{"tokenizer.model": (models / f"{name}.model").read_bytes()} for name in classes]
    return [
        each | {"tokenizer_config.json": json.dumps(config).encode()}
        for each, config in zip(files, configs, strict=True)
    ]


def _gguf_tokenizer() -> list[Files]:
    import gguf

    def write(folder: Path, model: str) -> None:
        writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
        tokens = ["<unk>", "<s>", "</s>", *"abhelow", "he", "hel", "▁", "Ġ", "<0x41>"]
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 4) + [6])
        writer.add_token_merges(["h e", "he l"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ bos_token }}{{ messages[0]['content'] }}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()

    return [contents(functools.partial(write, model=model)) for model in ("llama", "gpt2")]


def _configs() -> list[Files]:
    from models.tiny_configs import FAMILIES

    values = [
        {"model_type": name, "architectures": [*family.heads][:1], **family.config} for name, family in FAMILIES.items()
    ]
    return [{"config.json": json.dumps(value).encode()} for value in values]


def _read_config(folder: Path) -> None:
    from flaxmodels import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder)
    config.to_json_string()
    AutoModel.from_config(config, _do_init=False)


def _generation_configs() -> list[Files]:
    plain = {"bos_token_id": 1, "eos_token_id": [2, 3], "max_length": 20, "do_sample": True, "temperature": 0.7}
    processors = {"top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "num_beams": 1}
    ids = {"bad_words_ids": [[1, 2]], "suppress_tokens": [5], "forced_decoder_ids": [[1, None]], "stop_strings": ["x"]}
    more = {"logit_bias": {"3": 1.5}, "sequence_bias": [[[1, 2], 0.5]], "exponential_decay_length_penalty": [3, 1.1]}
    whisper = {"lang_to_id": {"<|en|>": 7}, "task_to_id": {"transcribe": 8}, "is_multilingual": True, "language": "en"}
    every = (plain | processors, ids | more, whisper)
    return [{"generation_config.json": json.dumps(values).encode()} for values in every]


def _read_generation_config(folder: Path) -> None:
    from flaxmodels.generation.config import GenerationConfig

    config = GenerationConfig.from_pretrained(folder)
    config.to_json_string()
    config.to_dict()


_MODELS = ("flaxmodels.registry", "flaxmodels.models.llama")
_TOKENIZER = ("tokenizers", "jinja2", "flaxmodels.tokenizer")
FORMATS = {
    "safetensors": Format(_safetensors, read_weights),
    "msgpack": Format(_msgpack, read_weights),
    "gguf": Format(_gguf, _read_gguf, modules=("gguf",)),
    "index": Format(_index, read_weights, ("model.safetensors.index.json",)),
    "hdf5": Format(_hdf5, read_weights, modules=("h5py",)),
    "torch": Format(_torch, read_weights, modules=("torch",)),
    "orbax": Format(
        _orbax, lambda folder: read_weights(folder / "flax_model.orbax"), share=1, modules=("tensorstore",)
    ),
    "tokenizer": Format(_tokenizers, _read_tokenizer, ("tokenizer.json",), share=5, modules=_TOKENIZER),
    "tokenizer_config": Format(
        _tokenizers,
        _read_tokenizer,
        ("tokenizer_config.json", "special_tokens_map.json"),
        share=5,
        modules=_TOKENIZER,
    ),
    "vocabulary": Format(
        _vocabularies,
        _read_tokenizer,
        ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model"),
        share=5,
        modules=(*_TOKENIZER, "google.protobuf"),
    ),
    "gguf_tokenizer": Format(
        _gguf_tokenizer, lambda folder: _read_tokenizer(folder / "model.gguf"), share=5, modules=_TOKENIZER
    ),
    "config": Format(_configs, _read_config, share=1, modules=_MODELS),
    "generation_config": Format(
        _generation_configs, _read_generation_config, modules=("flaxmodels.generation.config",)
    ),
}
