"""wav2vec 2.0 (arXiv 2006.11477): an encoder of raw sound.

Parameter names and numerics follow the reference implementation in transformers (`Wav2Vec2Model`, `Wav2Vec2For...`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import Len
from jax.nn.initializers import constant, he_normal, normal, uniform

from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.fields import (
    MAX_LAYERS,
    Activation,
    Count,
    Epsilon,
    FurtherLayers,
    Layers,
    Length,
    Positive,
    Rate,
    Scale,
    Size,
    SpecialId,
    SpecialIds,
    VocabSize,
)
from flaxmodels.model import PreTrainedModel
from flaxmodels.nn.activations import get_activation
from flaxmodels.nn.augment import span_mask
from flaxmodels.nn.conv import Conv1d, WeightNormConv1d
from flaxmodels.nn.dropout import dropout, layer_dropout, split_key
from flaxmodels.nn.heads import weighted_layers
from flaxmodels.nn.inputs import Input
from flaxmodels.nn.linear import LayerNorm, Linear
from flaxmodels.nn.masks import padding_mask
from flaxmodels.nn.mlp import MLP
from flaxmodels.nn.module import Module, ModuleList, fresh, param
from flaxmodels.nn.multihead import MultiHeadAttention
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.policy import Policy
from flaxmodels.nn.speech import AMSoftmaxLoss, GumbelVectorQuantizer, TDNNLayer, moments
from flaxmodels.nn.stack import BlockOutput, Stack, StackOutput
from flaxmodels.outputs import (
    CausalLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    Wav2Vec2BaseModelOutput,
    Wav2Vec2ForPreTrainingOutput,
    XVectorOutput,
)

EPSILON = 1e-5
"""Of the norms that `layer_norm_eps` does not speak of."""


_Sizes = Annotated[Sequence[Size], Len(1, MAX_LAYERS)]


class Wav2Vec2Config(PreTrainedConfig):
    """Configuration of wav2vec 2.0; the defaults are those of wav2vec2-base-960h."""

    model_type = "wav2vec2"
    multiples = (
        ("hidden_size", "num_attention_heads"),
        ("hidden_size", "num_conv_pos_embedding_groups"),
        ("codevector_dim", "num_codevector_groups"),
    )

    vocab_size: VocabSize | None = 32
    hidden_size: Size = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout: Rate = 0.1
    activation_dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    feat_proj_dropout: Rate = 0.0
    feat_quantizer_dropout: Rate = 0.0
    final_dropout: Rate = 0.1
    layerdrop: Rate = 0.1
    initializer_range: Scale = 0.02
    layer_norm_eps: Epsilon = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Activation = "gelu"
    conv_dim: _Sizes = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: _Sizes = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: _Sizes = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: Size = 128
    num_conv_pos_embedding_groups: Size = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: Rate = 0.05
    mask_time_length: Length = 10
    mask_time_min_masks: Count = 2
    mask_feature_prob: Rate = 0.0
    mask_feature_length: Length = 10
    mask_feature_min_masks: Count = 0
    num_codevectors_per_group: Size = 320
    num_codevector_groups: Size = 2
    contrastive_logits_temperature: Positive = 0.1
    num_negatives: Count = 100
    codevector_dim: Size = 256
    proj_codevector_dim: Size = 256
    diversity_loss_weight: Scale = 0.1
    ctc_loss_reduction: Literal["mean", "none", "sum"] = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: Size = 256
    tdnn_dim: _Sizes = (512, 512, 512, 512, 1500)
    tdnn_kernel: _Sizes = (5, 3, 3, 1, 1)
    tdnn_dilation: _Sizes = (1, 2, 3, 1, 1)
    xvector_output_dim: Size = 512
    pad_token_id: SpecialId | None = 0
    bos_token_id: SpecialId | None = 1
    eos_token_id: SpecialIds | None = 2
    add_adapter: bool = False
    adapter_kernel_size: Size = 3
    adapter_stride: Size = 2
    num_adapter_layers: FurtherLayers = 3
    output_hidden_size: Size | None = None
    adapter_attn_dim: Size | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        for names in (("conv_dim", "conv_stride", "conv_kernel"), ("tdnn_dim", "tdnn_kernel", "tdnn_dilation")):
            if len({len(getattr(self, name)) for name in names}) > 1:
                found.append(f"{', '.join(names)}: expected as many numbers in each, one for each layer")
        return found

    @property
    def adapted_size(self) -> int:
        """Features of the model's output."""
        return self.output_hidden_size or self.hidden_size if self.add_adapter else self.hidden_size

    def frames(self, samples: Any) -> Any:
        """How many frames the feature extractor makes of so many samples."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def adapted(self, frames: Any) -> Any:
        """How many frames are left of those of the encoder."""
        for _ in range(self.num_adapter_layers if self.add_adapter else 0):
            frames = (frames - 1) // self.adapter_stride + 1
        return frames


class ChannelNorm(LayerNorm):
    """Each channel of `[batch, length, channels]` normalised over its length, in float32 (arXiv 1607.08022)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(1, keepdims=True) + self.epsilon)
        assert self.scale is not None
        assert self.bias is not None
        return (y * self.scale[...][None, None] + self.bias[...][None, None]).astype(x.dtype)


class Wav2Vec2ConvLayer(Module):
    def __init__(self, config: Wav2Vec2Config, policy: Policy, number: int):
        channels = config.conv_dim[number]
        self.activation = get_activation(config.feat_extract_activation)
        self.conv = Conv1d(
            config.conv_dim[number - 1] if number else 1,
            channels,
            config.conv_kernel[number],
            policy,
            stride=config.conv_stride[number],
            use_bias=config.conv_bias,
            init=he_normal(),
        )
        if config.feat_extract_norm == "layer":
            self.layer_norm = LayerNorm(channels, policy, epsilon=EPSILON)
        elif number == 0:
            self.layer_norm = ChannelNorm(channels, policy, epsilon=EPSILON)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return self.activation(self.layer_norm(x) if hasattr(self, "layer_norm") else x)


class Wav2Vec2FeatureEncoder(Module):
    """From samples `[batch, samples]` to features `[batch, frames, channels]`."""

    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        layers = range(len(config.conv_dim))
        self.conv_layers = ModuleList(Wav2Vec2ConvLayer(config, policy, number) for number in layers)

    def __call__(self, input_values: jax.Array) -> jax.Array:
        x = input_values[..., None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class Wav2Vec2FeatureProjection(Module):
    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        channels = config.conv_dim[-1]
        self.dropout_rate = config.feat_proj_dropout
        self.layer_norm = LayerNorm(channels, policy, epsilon=config.layer_norm_eps)
        self.projection = Linear(channels, config.hidden_size, policy, init=normal((3 * channels) ** -0.5))

    def __call__(self, features, dropout_rng):
        features = self.layer_norm(features)
        return dropout(self.projection(features), self.dropout_rate, dropout_rng), features


class Wav2Vec2PositionalConvEmbedding(Module):
    """Where a frame is, said by the frames around it."""

    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        width, features = config.num_conv_pos_embeddings, config.hidden_size
        self.is_even = width % 2 == 0
        self.activation = get_activation(config.feat_extract_activation)
        self.conv = WeightNormConv1d(
            features,
            features,
            width,
            policy,
            padding=width // 2,
            groups=config.num_conv_pos_embedding_groups,
            stddev=2 * (width * features) ** -0.5,
        )

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        positions = self.conv(hidden_states)
        return self.activation(positions[:, :-1] if self.is_even else positions)


class Wav2Vec2AttnAdapterLayer(Module):
    """A small network behind a layer, trained for one language (arXiv 2305.13516)."""

    def __init__(self, config: Wav2Vec2Config, policy: Policy, features: int):
        init = normal(config.initializer_range)
        self.norm = LayerNorm(config.hidden_size, policy, epsilon=EPSILON)
        self.linear_1 = Linear(config.hidden_size, features, policy, init=init)
        self.linear_2 = Linear(features, config.hidden_size, policy, init=init)

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return self.linear_2(jax.nn.relu(self.linear_1(self.norm(hidden_states))))


class Wav2Vec2EncoderLayer(Module):
    """Norms stand behind attention and feed-forward, or before them if `do_stable_layer_norm`."""

    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        self.stable = config.do_stable_layer_norm
        self.dropout_rate, self.layerdrop = config.hidden_dropout, config.layerdrop
        self.attention = MultiHeadAttention(
            config.hidden_size,
            config.num_attention_heads,
            policy,
            dropout_rate=config.attention_dropout,
            init=normal(config.initializer_range),
        )
        self.layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.feed_forward = MLP(
            config.hidden_size,
            config.intermediate_size,
            policy,
            activation=config.hidden_act,
            names=("intermediate_dense", "output_dense"),
            dropout_rate=config.activation_dropout,
            init=normal(config.initializer_range),
        )
        self.final_layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        if self.stable and config.adapter_attn_dim is not None:
            self.adapter_layer = Wav2Vec2AttnAdapterLayer(config, policy, config.adapter_attn_dim)

    def __call__(
        self,
        hidden_states: jax.Array,
        *,
        mask: jax.Array | None,
        cache: None = None,
        output_attentions: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BlockOutput:
        keys, before = split_key(dropout_rng, 5), hidden_states
        normed = self.layer_norm(hidden_states) if self.stable else hidden_states
        options = {"output_attentions": output_attentions, "dropout_rng": keys[0]}
        mixed, weights, _ = self.attention(normed, mask, **options)
        hidden_states = hidden_states + dropout(mixed, self.dropout_rate, keys[1])
        hidden_states = hidden_states if self.stable else self.layer_norm(hidden_states)
        normed = self.final_layer_norm(hidden_states) if self.stable else hidden_states
        fed = self.feed_forward(normed, keys[2])
        hidden_states = hidden_states + dropout(fed, self.dropout_rate, keys[3])
        hidden_states = hidden_states if self.stable else self.final_layer_norm(hidden_states)
        if hasattr(self, "adapter_layer"):
            hidden_states = hidden_states + self.adapter_layer(hidden_states)
        return BlockOutput(layer_dropout(before, hidden_states, self.layerdrop, keys[4]), cache, weights)


class Wav2Vec2Encoder(Module):
    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        self.stable, self.dropout_rate = config.do_stable_layer_norm, config.hidden_dropout
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config, policy)
        self.layer_norm = LayerNorm(config.hidden_size, policy, epsilon=config.layer_norm_eps)
        self.layers = Stack(lambda: Wav2Vec2EncoderLayer(config, policy), config.num_hidden_layers, policy)

    def __call__(self, hidden_states, there, output_attentions, output_hidden_states, dropout_rng) -> StackOutput:
        """`there`: bool `[batch, frames]`, false for padding, or `None`."""
        keys = split_key(dropout_rng, 2)
        if there is not None:
            hidden_states = jnp.where(there[..., None], hidden_states, 0.0)
        hidden_states = hidden_states + self.pos_conv_embed(hidden_states)
        outputs = self.layers(
            dropout(hidden_states if self.stable else self.layer_norm(hidden_states), self.dropout_rate, keys[0]),
            dropout_rng=keys[1],
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            mask=None if there is None else padding_mask(there),
        )
        if self.stable:  # hidden states are those before the norm
            outputs = outputs._replace(last_hidden_state=self.layer_norm(outputs.last_hidden_state))
        return outputs


class Wav2Vec2AdapterLayer(Module):
    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        size = config.adapted_size
        self.conv = Conv1d(
            size,
            2 * size,
            config.adapter_kernel_size,
            policy,
            stride=config.adapter_stride,
            padding=1,
            init=he_normal(),
        )

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        return jax.nn.glu(self.conv(hidden_states))


class Wav2Vec2Adapter(Module):
    """Convolutions that leave fewer frames. None is dropped in training, as lengths depend on all."""

    def __init__(self, config: Wav2Vec2Config, policy: Policy):
        self.projects = config.adapted_size != config.hidden_size
        if self.projects:
            init = normal(config.initializer_range)
            self.proj = Linear(config.hidden_size, config.adapted_size, policy, init=init)
            self.proj_layer_norm = LayerNorm(config.adapted_size, policy, epsilon=EPSILON)
        self.layers = ModuleList(Wav2Vec2AdapterLayer(config, policy) for _ in range(config.num_adapter_layers))

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        if self.projects:
            hidden_states = self.proj_layer_norm(self.proj(hidden_states))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class Wav2Vec2PreTrainedModel(PreTrainedModel):
    """Base of the wav2vec 2.0 models. All take the inputs of `Wav2Vec2Model.forward`."""

    config_class = Wav2Vec2Config
    base_model_prefix = "wav2vec2"
    main_input_name = "input_values"
    expected_inputs = {"attention_mask": Input("zeros and ones", "batch samples")}
    tp_plan = {"(q_proj|k_proj|v_proj|intermediate_dense)": COLUMN, "(out_proj|output_dense)": ROW}
    config: Wav2Vec2Config


class Wav2Vec2Model(Wav2Vec2PreTrainedModel):
    """The encoder without a head."""

    def build(self, config: Wav2Vec2Config, policy: Policy):
        self.feature_extractor = Wav2Vec2FeatureEncoder(config, policy)
        self.feature_projection = Wav2Vec2FeatureProjection(config, policy)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = fresh(param((config.hidden_size,), policy.param_dtype, uniform(1.0)))
        self.encoder = Wav2Vec2Encoder(config, policy)
        if config.add_adapter:
            self.adapter = Wav2Vec2Adapter(config, policy)

    def forward(
        self,
        input_values: jax.Array,
        attention_mask: jax.Array | None = None,
        mask_time_indices: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> Wav2Vec2BaseModelOutput:
        """Encode.

        Args:
            input_values: samples, float `[batch, samples]`, at 16 kHz for all published checkpoints.
            attention_mask: `[batch, samples]`, 0 for padding, which is on the right.
            mask_time_indices: bool `[batch, frames]`, which frames the encoder does not see; with
                `apply_spec_augment` alone. They are drawn in training if not given.
        """
        keys = split_key(dropout_rng, 3)
        features = self.feature_extractor(jnp.asarray(input_values))
        if 0 in features.shape:
            raise FlaxModelsError(
                f"input_values: {input_values.shape[1]} samples are too few for one frame; add zeros behind them"
            )
        lengths = None if attention_mask is None else self.config.frames(attention_mask.sum(-1))
        there = None if lengths is None else jnp.arange(features.shape[1])[None] < lengths[:, None]
        hidden_states, features = self.feature_projection(features, keys[0])
        hidden_states = self._masked(hidden_states, mask_time_indices, lengths, keys[1])
        outputs = self.encoder(hidden_states, there, output_attentions, output_hidden_states, keys[2])
        last = outputs.last_hidden_state
        return Wav2Vec2BaseModelOutput(
            last_hidden_state=self.adapter(last) if self.config.add_adapter else last,
            extract_features=features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _masked(self, hidden_states, mask_time_indices, lengths, key):
        """With frames replaced, and in training features silenced, as SpecAugment does."""
        config, (batch, frames, size) = self.config, hidden_states.shape
        if not config.apply_spec_augment:
            return hidden_states
        time_key, feature_key = split_key(key, 2)
        if mask_time_indices is None and time_key is not None and config.mask_time_prob > 0:
            spans = (config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
            mask_time_indices = span_mask(time_key, (batch, frames), *spans, lengths)
        if mask_time_indices is not None:
            if not hasattr(self, "masked_spec_embed"):
                raise ConfigError("mask_time_indices need mask_time_prob or mask_feature_prob above 0")
            if mask_time_indices.shape != (batch, frames):
                raise FlaxModelsError(
                    f"mask_time_indices: expected [batch, frames] = {(batch, frames)}, got {mask_time_indices.shape}"
                )
            embedding = self.masked_spec_embed[...].astype(hidden_states.dtype)[None, None]
            hidden_states = jnp.where(jnp.asarray(mask_time_indices, bool)[..., None], embedding, hidden_states)
        if feature_key is not None and config.mask_feature_prob > 0:
            spans = (config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks)
            silent = span_mask(feature_key, (batch, size), *spans)
            hidden_states = jnp.where(silent[:, None, :], 0.0, hidden_states)
        return hidden_states


class Wav2Vec2ForPreTraining(Wav2Vec2PreTrainedModel):
    """What the contrastive loss compares: the encoder's output, and the sound itself as code vectors."""

    def build(self, config: Wav2Vec2Config, policy: Policy):
        init = normal(config.initializer_range)
        self.wav2vec2 = Wav2Vec2Model.part(config, policy)
        self.quantizer = GumbelVectorQuantizer(
            config.conv_dim[-1],
            config.codevector_dim,
            config.num_codevector_groups,
            config.num_codevectors_per_group,
            policy,
        )
        self.project_hid = Linear(config.hidden_size, config.proj_codevector_dim, policy, init=init)
        self.project_q = Linear(config.codevector_dim, config.proj_codevector_dim, policy, init=init)

    def set_gumbel_temperature(self, temperature: float) -> None:
        """How far from the likeliest code vector training draws; it falls from 2 in the paper."""
        self.quantizer.temperature = temperature

    def head(self, outputs, inputs, dropout_rng):
        keys = split_key(dropout_rng, 2)
        features = dropout(outputs.extract_features, self.config.feat_quantizer_dropout, keys[0])
        vectors, perplexity = self.quantizer(features, inputs.get("mask_time_indices"), keys[1])
        return outputs.to(
            Wav2Vec2ForPreTrainingOutput,
            projected_states=self.project_hid(outputs.last_hidden_state),
            projected_quantized_states=self.project_q(vectors),
            codevector_perplexity=perplexity,
        )


class Wav2Vec2ForCTC(Wav2Vec2PreTrainedModel):
    """A token, or none (`pad_token_id`), for each frame."""

    def build(self, config: Wav2Vec2Config, policy: Policy):
        if config.vocab_size is None:
            raise ConfigError(f"{type(self).__name__} needs vocab_size")
        self.wav2vec2 = Wav2Vec2Model.part(config, policy)
        self.lm_head = Linear(config.adapted_size, config.vocab_size, policy, init=normal(config.initializer_range))

    def head(self, outputs, inputs, dropout_rng):
        hidden_states = dropout(outputs.last_hidden_state, self.config.final_dropout, dropout_rng)
        return outputs.to(CausalLMOutput, logits=self.lm_head(hidden_states))


class Wav2Vec2WithLayerSum(Wav2Vec2PreTrainedModel):
    """Base of the models that may read a weighted mean of all layers (`use_weighted_layer_sum`)."""

    takes_adapter = False

    def build(self, config: Wav2Vec2Config, policy: Policy):
        if config.add_adapter and not self.takes_adapter:
            raise ConfigError(f"{type(self).__name__} does not go with add_adapter=True")
        self.wav2vec2 = Wav2Vec2Model.part(config, policy)
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = param((states,), policy.param_dtype, constant(1 / states))

    def forward(self, *, output_hidden_states: bool = False, dropout_rng: jax.Array | None = None, **inputs):
        weighted = self.config.use_weighted_layer_sum
        outputs = self.features(
            **inputs, output_hidden_states=output_hidden_states or weighted, dropout_rng=dropout_rng
        )
        states = outputs.last_hidden_state
        if weighted:
            states = weighted_layers(self.layer_weights[...], outputs.hidden_states)
        kept = {"attentions": outputs.attentions, "hidden_states": outputs.hidden_states}
        return self.classify(states, inputs, kept if output_hidden_states else {"attentions": outputs.attentions})

    def classify(self, hidden_states, inputs, kept):
        raise NotImplementedError


class Wav2Vec2ForSequenceClassification(Wav2Vec2WithLayerSum):
    """A label for a sound, by the mean over time."""

    def build(self, config: Wav2Vec2Config, policy: Policy):
        super().build(config, policy)
        init = normal(config.initializer_range)
        self.projector = Linear(config.hidden_size, config.classifier_proj_size, policy, init=init)
        self.classifier = Linear(config.classifier_proj_size, config.num_labels, policy, init=init)

    def classify(self, hidden_states, inputs, kept):
        lengths = lengths_of(self.config, inputs.get("attention_mask"), hidden_states)
        mean, _ = moments(self.projector(hidden_states), lengths)
        return SequenceClassifierOutput(logits=self.classifier(mean), **kept)


class Wav2Vec2ForAudioFrameClassification(Wav2Vec2WithLayerSum):
    """A label for each frame."""

    def build(self, config: Wav2Vec2Config, policy: Policy):
        super().build(config, policy)
        self.classifier = Linear(config.hidden_size, config.num_labels, policy, init=normal(config.initializer_range))

    def classify(self, hidden_states, inputs, kept):
        return TokenClassifierOutput(logits=self.classifier(hidden_states), **kept)


class Wav2Vec2ForXVector(Wav2Vec2WithLayerSum):
    """Who speaks, by mean and deviation over time (x-vectors)."""

    takes_adapter = True

    def build(self, config: Wav2Vec2Config, policy: Policy):
        super().build(config, policy)
        init, size = normal(config.initializer_range), config.xvector_output_dim
        self.projector = Linear(config.hidden_size, config.tdnn_dim[0], policy, init=init)
        widths = zip((config.tdnn_dim[0], *config.tdnn_dim), config.tdnn_dim, strict=False)
        shapes = zip(widths, config.tdnn_kernel, config.tdnn_dilation, strict=True)
        self.tdnn = ModuleList(
            TDNNLayer(*features, policy, width=width, dilation=dilation, init=init)
            for features, width, dilation in shapes
        )
        self.feature_extractor = Linear(2 * config.tdnn_dim[-1], size, policy, init=init)
        self.classifier = Linear(size, size, policy, init=init)
        self.objective = AMSoftmaxLoss(size, config.num_labels, policy)

    def classify(self, hidden_states, inputs, kept):
        lengths = lengths_of(self.config, inputs.get("attention_mask"), hidden_states)
        hidden_states = self.projector(hidden_states)
        for layer in self.tdnn:
            hidden_states = layer(hidden_states)
            lengths = lengths - (layer.width - 1)  # dilation is not counted in transformers either
        mean, deviation = moments(hidden_states, lengths)
        embeddings = self.feature_extractor(jnp.concatenate([mean, deviation], axis=-1))
        return XVectorOutput(logits=self.classifier(embeddings), embeddings=embeddings, **kept)


def lengths_of(config: Wav2Vec2Config, attention_mask: jax.Array | None, hidden_states: jax.Array) -> jax.Array:
    """How many frames of each row are sound, int `[batch]`."""
    if attention_mask is None:
        return jnp.full(len(hidden_states), hidden_states.shape[1])
    return config.adapted(config.frames(attention_mask.sum(-1)))
