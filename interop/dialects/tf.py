"""TensorFlow: the variable names and layouts of the TF classes of transformers, as Keras stored them.

Source: `convert_tf_weight_name_to_pt_weight_name` of `modeling_tf_pytorch_utils` in transformers 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from interop.ops import Op, Transpose
from interop.rules import Rule
from interop.source import Header

_LEAVES = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias"}
_KERNELS: dict[int, tuple[Op, ...]] = {
    2: (Transpose((1, 0)),),  # [in, out]
    4: (Transpose((3, 2, 0, 1)),),  # [height, width, in, out]
}


def rules(headers: Mapping[str, Header]) -> list[Rule]:
    """From the variables of a TF model to torch names and layouts."""
    return [Rule((name,), (torch_name(name),), _ops(name, header)) for name, header in headers.items()]


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
