"""OLMo 2 (arXiv 2501.00656): decoder with norms of what attention and MLP return, and of all queries and all keys."""

from __future__ import annotations

from functools import partial

from flaxmodels.bases.decoder import DecoderModel
from flaxmodels.bases.decoder_config import DecoderConfig
from flaxmodels.bases.decoder_heads import DecoderForCausalLM, DecoderForSequenceClassification
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer
from flaxmodels.bases.decoder_parts import attention, gated_mlp, rms_norm
from flaxmodels.fields import Epsilon, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.self_attention import ProjectionNormAttention
from flaxmodels.policy import Policy


class Olmo2Config(DecoderConfig):
    """Configuration of OLMo 2; the defaults are those of transformers."""

    model_type = "olmo2"

    vocab_size: VocabSize = 50304
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: SpecialId | None = 1
    bos_token_id: SpecialId | None = None
    eos_token_id: SpecialIds | None = 50279
    attention_bias: bool = False


class Olmo2DecoderLayer(DecoderLayer):
    """Attention and MLP, each with a norm after it."""

    sublayers = (
        Mixer("self_attn", post_norm="post_attention_layernorm"),
        FeedForward("mlp", post_norm="post_feedforward_layernorm"),
    )

    def __init__(self, config: Olmo2Config, policy: Policy):
        norm = partial(rms_norm, config, policy)
        self.self_attn = attention(config, policy, ProjectionNormAttention, use_bias=config.attention_bias, norm=norm)
        self.mlp = gated_mlp(config, policy)
        self.post_attention_layernorm = norm()
        self.post_feedforward_layernorm = norm()


class Olmo2Model(DecoderModel):
    """The decoder without a head."""

    config_class = Olmo2Config
    layer_class = Olmo2DecoderLayer


class Olmo2ForCausalLM(DecoderForCausalLM):
    base_class = Olmo2Model


class Olmo2ForSequenceClassification(DecoderForSequenceClassification):
    base_class = Olmo2Model
