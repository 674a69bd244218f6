"""GPT-J (github.com/kingoflolz/mesh-transformer-jax): rotary positions (arXiv 2104.09864), attention beside the MLP."""

from __future__ import annotations

import jax

from flaxmodels.bases.decoder import DecoderBase, Tokens
from flaxmodels.bases.decoder_heads import DecoderForCausalLM, DecoderForSequenceClassification
from flaxmodels.bases.decoder_layer import DecoderLayer, FeedForward, Mixer, parallel
from flaxmodels.bases.decoder_parts import token_embedding
from flaxmodels.bases.heads import ForQuestionAnswering
from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Epsilon, Layers, Length, Rate, Scale, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.nn.cache import Cache
from flaxmodels.nn.dense import vocabulary_projection
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.initializers import normal, zeros
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import param
from flaxmodels.nn.norms import LayerNorm
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.rope import RopeConfig, apply_interleaved_rope
from flaxmodels.nn.self_attention import MultiHeadSelfAttention
from flaxmodels.outputs import BaseModelOutput
from flaxmodels.policy import Policy


class GPTJConfig(PreTrainedConfig):
    """Configuration of GPT-J; the defaults are those of GPT-J 6B."""

    model_type = "gptj"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    multiples = (("n_embd", "n_head"),)

    vocab_size: VocabSize = 50400
    n_positions: Length = 2048
    n_embd: Size = 4096
    n_layer: Layers = 28
    n_head: Size = 16
    rotary_dim: Size | None = 64
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    attn_pdrop: Rate = 0.0
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: Scale = 0.02
    use_cache: bool = True
    bos_token_id: SpecialId | None = 50256
    eos_token_id: SpecialIds | None = 50256
    tie_word_embeddings: bool = False

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if not 0 < self.rope.rotary_dim <= self.features_per_head or self.rope.rotary_dim % 2:
            most = self.features_per_head
            found.append(f"rotary_dim={self.rotary_dim}: expected an even number up to n_embd / n_head = {most}")
        return found

    @property
    def rope(self) -> RopeConfig:
        """The rotary embedding; without `rotary_dim` all features rotate, of which there must then be one head."""
        rotary_dim = self.n_embd if self.rotary_dim is None else self.rotary_dim
        return RopeConfig(rotary_dim, self.n_positions)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary embedding of each layer."""
        return (self.rope,) * self.n_layer


class GPTJBlock(DecoderLayer):
    """Attention and MLP of the same normalised states."""

    arrangement = staticmethod(parallel)

    def __init__(self, config: GPTJConfig, policy: Policy):
        init = normal(config.initializer_range)
        self.sublayers = (
            Mixer("attn", pre_norm="ln_1", dropout_rate=config.resid_pdrop),
            FeedForward("mlp", pre_norm="ln_1", dropout_rate=config.resid_pdrop),
        )
        self.ln_1 = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)
        self.attn = MultiHeadSelfAttention(
            config.n_embd,
            policy,
            heads=config.n_head,
            head_dim=config.features_per_head,
            use_bias=False,
            rotate=apply_interleaved_rope,
            dropout_rate=config.attn_pdrop,
            init=init,
        )
        inner, names = config.n_inner or 4 * config.n_embd, ("fc_in", "fc_out")
        self.mlp = MLP(config.n_embd, inner, policy, activation=config.activation_function, names=names, init=init)


class GPTJModel(DecoderBase):
    """The decoder without a head."""

    config_class = GPTJConfig
    layer_class = GPTJBlock
    base_model_prefix = "transformer"
    keys_to_ignore_on_load = (r"\.attn\.(bias|masked_bias)$",)
    tp_plan = {"(q_proj|k_proj|v_proj|fc_in|lm_head)": COLUMN, "(out_proj|fc_out|wte)": ROW}
    input_embeddings = "wte"
    layers_path = "h"
    final_norm_path = "ln_f"

    def setup(self, config: GPTJConfig, policy: Policy):
        self.wte = token_embedding(config, policy)
        self.h = self.make_layers(config, policy)
        self.ln_f = LayerNorm(config.n_embd, policy, epsilon=config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Decode. The inputs are those of `DecoderModel.forward`, and `token_type_ids`.

        Args:
            token_type_ids: int `[batch, q_len]`, looked up in the table of tokens.
        """
        inputs = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, token_type_ids)
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs, _ = self.decode(*inputs, **options, dropout_rng=dropout_rng)
        return BaseModelOutput(**outputs._asdict())

    def embed_inputs(self, token_embeds: jax.Array, tokens: Tokens, dropout_rng: jax.Array | None) -> jax.Array:
        if tokens.token_type_ids is not None:
            token_embeds = token_embeds + self.wte(tokens.token_type_ids)
        return dropout(token_embeds, self.config.embd_pdrop, dropout_rng)


class GPTJForCausalLM(DecoderForCausalLM):
    base_class = GPTJModel

    def make_projection(self, table, config, policy):
        bias = param((config.vocab_size,), policy.param_dtype, zeros)
        tied, init = config.tie_word_embeddings, normal(config.initializer_range)
        return vocabulary_projection(table, policy, tied=tied, init=init, bias=bias)


class GPTJForSequenceClassification(DecoderForSequenceClassification):
    base_class = GPTJModel


class GPTJForQuestionAnswering(ForQuestionAnswering):
    base_class = GPTJModel
