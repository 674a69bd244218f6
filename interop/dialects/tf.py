"""TensorFlow: the variable names and layouts of the TF classes of transformers, as Keras stored them.

Source: `convert_tf_weight_name_to_pt_weight_name` of `modeling_tf_pytorch_utils` in transformers 4.
"""

from __future__ import annotations

import re

from interop.errors import InteropError, listed
from interop.ops import Op, Transpose
from interop.rules import Rule
from interop.source import Header, Source

_LEAVES = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias"}
_KERNELS: dict[int, tuple[Op, ...]] = {
    2: (Transpose((1, 0)),),  # [in, out]
    4: (Transpose((3, 2, 0, 1)),),  # [height, width, in, out]
}


def rules(source: Source) -> list[Rule]:
    """From the variables of a TF model to torch names and layouts.

    A variable that parts of a model share is in the file once for each of them.

    Raises:
        InteropError: variables that have one name in torch differ.
    """
    first: dict[str, str] = {}
    differing = [name for name in source.headers if not _same(source, name, first.setdefault(torch_name(name), name))]
    if differing:
        raise InteropError(f"variables of TensorFlow differ from others of the same name in torch: {listed(differing)}")
    return [Rule((name,), (torch_name(name),), _ops(name, header)) for name, header in source.headers.items()]


def _same(source: Source, name: str, other: str) -> bool:
    if source.headers[name] != source.headers[other]:
        return False
    return name == other or source.read(name).tobytes() == source.read(other).tobytes()


def torch_name(name: str) -> str:
    """`bert/tf_bert_model/bert/encoder/layer_._0/output/dense/kernel:0` is `bert.encoder.layer.0.output.dense.weight`.

    What comes before the name of the model class goes, and so does what comes before "___" in a part; "_._" stands
    for the place of a number.
    """
    parts = name.partition(":")[0].split("/")
    models = [number for number, part in enumerate(parts) if re.match(r"tf_\w+", part)]
    parts = parts[models[-1] + 1 :] if models else parts
    *owner, leaf = [part.rpartition("___")[2] for part in parts]
    return ".".join((*owner, _LEAVES.get(leaf, leaf))).replace("_._", ".")


def _ops(name: str, header: Header) -> tuple[Op, ...]:
    is_kernel = name.partition(":")[0].endswith("/kernel")
    return _KERNELS.get(len(header.shape), ()) if is_kernel else ()
