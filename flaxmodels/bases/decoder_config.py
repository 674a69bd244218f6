"""The configuration of decoders with rotary positions."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Predicate, doc

from flaxmodels.bases.rotary_config import RotaryConfig
from flaxmodels.fields import (
    ABSENT,
    Activation,
    Epsilon,
    Layers,
    Length,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)

CausalOnly = Annotated[
    bool | None, Predicate(lambda value: not value), doc("False, as bidirectional attention is not implemented")
]


class DecoderConfig(RotaryConfig):
    """The fields that decoders with rotary positions, RMS norms and gated MLPs share, with the defaults of Llama 7B."""

    multiples = (("hidden_size", "num_attention_heads"),)
    lengths = (("layer_types", "num_hidden_layers"),)

    vocab_size: VocabSize = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: Length = 2048
    initializer_range: Scale = 0.02
    rms_norm_eps: Epsilon = 1e-6
    bos_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    tie_word_embeddings: bool = False
    attention_dropout: Rate = 0.0
    use_cache: bool = True
    classifier_dropout: Rate | None = ABSENT
    hidden_dropout: Rate | None = ABSENT
