"""wav2vec 2.0 (arXiv 2006.11477): an encoder of raw audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from annotated_types import Len

from flaxmodels.bases.audio import AudioAdapter, AudioEncoder, AudioFeatureEncoder, AudioFeatureProjection
from flaxmodels.bases.parts import set_base
from flaxmodels.bases.transformer import DropoutRates, LayerSpec
from flaxmodels.config import PreTrainedConfig
from flaxmodels.errors import ConfigError, FlaxModelsError
from flaxmodels.execution.inputs import Input
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
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout, split_key
from flaxmodels.nn.heads import weighted_layers
from flaxmodels.nn.initializers import constant, normal, uniform
from flaxmodels.nn.module import ModuleList, fresh, param
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.spec_augment import span_mask
from flaxmodels.nn.speech import AMSoftmaxLoss, GumbelVectorQuantizer, TDNNLayer, moments
from flaxmodels.outputs import (
    CausalLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    Wav2Vec2BaseModelOutput,
    Wav2Vec2ForPreTrainingOutput,
    XVectorOutput,
)
from flaxmodels.policy import Policy

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

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        for names in (("conv_dim", "conv_stride", "conv_kernel"), ("tdnn_dim", "tdnn_kernel", "tdnn_dilation")):
            if len({len(getattr(self, name)) for name in names}) > 1:
                found.append(f"{', '.join(names)}: expected as many numbers in each, one for each layer")
        return found

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        return LayerSpec.from_config(
            self,
            rates=DropoutRates(
                weights=self.attention_dropout,
                attention=self.hidden_dropout,
                activation=self.activation_dropout,
                mlp=self.hidden_dropout,
                layer=self.layerdrop,
            ),
        )

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


class Wav2Vec2Model(PreTrainedModel):
    """The encoder without a head."""

    config_class = Wav2Vec2Config
    base_model_prefix = "wav2vec2"
    main_input_name = "input_values"
    expected_inputs = {"attention_mask": Input("zeros and ones", "batch samples")}
    tp_plan = {"(q_proj|k_proj|v_proj|intermediate_dense)": COLUMN, "(out_proj|output_dense)": ROW}
    config: Any

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        self.feature_extractor = AudioFeatureEncoder(config, policy)
        self.feature_projection = AudioFeatureProjection(config, policy)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = fresh(param((config.hidden_size,), policy.param_dtype, uniform(1.0)))
        self.encoder = AudioEncoder(config, policy)
        if config.add_adapter:
            self.adapter = AudioAdapter(config, policy)

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
                `apply_spec_augment` alone. They are random in training if not given.

        Raises:
            FlaxModelsError: too few samples for a frame, or a mask of another shape.
            ConfigError: a mask, and a configuration of a model that has no embedding for what is masked.
        """
        keys = split_key(dropout_rng, 3)
        features = self.feature_extractor(jnp.asarray(input_values))
        if 0 in features.shape:
            raise FlaxModelsError(
                f"input_values: {input_values.shape[1]} samples are too few for one frame; add zeros after them"
            )
        lengths = None if attention_mask is None else self.config.frames(attention_mask.sum(-1))
        valid = None if lengths is None else jnp.arange(features.shape[1])[None] < lengths[:, None]
        hidden_states, features = self.feature_projection(features, keys[0])
        hidden_states = self._masked(hidden_states, mask_time_indices, lengths, keys[1])
        outputs = self.encoder(
            hidden_states,
            valid,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            dropout_rng=keys[2],
        )
        last = outputs.last_hidden_state
        return Wav2Vec2BaseModelOutput(
            last_hidden_state=self.adapter(last) if self.config.add_adapter else last,
            extract_features=features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _masked(
        self,
        hidden_states: jax.Array,
        mask_time_indices: jax.Array | None,
        lengths: jax.Array | None,
        key: jax.Array | None,
    ) -> jax.Array:
        """`[batch, frames, hidden]` with frames replaced, and in training features silenced (SpecAugment)."""
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


class Wav2Vec2ForPreTraining(PreTrainedModel):
    """What the contrastive loss compares: the encoder's output, and the audio itself as code vectors."""

    base_class = Wav2Vec2Model
    config: Any

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        init = normal(config.initializer_range)
        set_base(self, config, policy)
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
        """Set how far from the likeliest code vector training samples; it falls from 2 in the paper."""
        self.quantizer.temperature = temperature

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> Wav2Vec2ForPreTrainingOutput:
        keys = split_key(dropout_rng, 2)
        features = dropout(outputs.extract_features, self.config.feat_quantizer_dropout, keys[0])
        vectors, perplexity = self.quantizer(features, inputs.get("mask_time_indices"), keys[1])
        return outputs.to(
            Wav2Vec2ForPreTrainingOutput,
            projected_states=self.project_hid(outputs.last_hidden_state),
            projected_quantized_states=self.project_q(vectors),
            codevector_perplexity=perplexity,
        )


class Wav2Vec2ForCTC(PreTrainedModel):
    """A token, or none (`pad_token_id`), for each frame."""

    base_class = Wav2Vec2Model
    config: Any

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        if config.vocab_size is None:
            raise ConfigError(f"{type(self).__name__} needs vocab_size")
        set_base(self, config, policy)
        self.lm_head = Linear(config.adapted_size, config.vocab_size, policy, init=normal(config.initializer_range))

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> CausalLMOutput:
        hidden_states = dropout(outputs.last_hidden_state, self.config.final_dropout, dropout_rng)
        return outputs.to(CausalLMOutput, logits=self.lm_head(hidden_states))


class Wav2Vec2WithLayerSum(PreTrainedModel):
    """Base of the models that may read a weighted mean of all layers (`use_weighted_layer_sum`).

    Attributes:
        takes_adapter: whether the model goes with `add_adapter=True`.
    """

    base_class = Wav2Vec2Model
    takes_adapter: ClassVar[bool] = False
    config: Any

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        if config.add_adapter and not self.takes_adapter:
            raise ConfigError(f"{type(self).__name__} does not go with add_adapter=True")
        set_base(self, config, policy)
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = param((states,), policy.param_dtype, constant(1 / states))

    def forward(
        self, *, output_hidden_states: bool = False, dropout_rng: jax.Array | None = None, **inputs: Any
    ) -> Any:
        weighted = self.config.use_weighted_layer_sum
        outputs = self.base_forward(
            **inputs, output_hidden_states=output_hidden_states or weighted, dropout_rng=dropout_rng
        )
        states = outputs.last_hidden_state
        if weighted:
            states = weighted_layers(self.layer_weights[...], outputs.hidden_states)
        kept = {"attentions": outputs.attentions, "hidden_states": outputs.hidden_states}
        return self.classify(states, inputs, kept if output_hidden_states else {"attentions": outputs.attentions})

    def classify(self, hidden_states: jax.Array, inputs: dict[str, Any], kept: dict[str, Any]) -> Any:
        """The task's output from hidden states `[batch, frames, hidden]`, with what is `kept` of the base model's."""
        raise NotImplementedError


class Wav2Vec2ForSequenceClassification(Wav2Vec2WithLayerSum):
    """A label for a recording, by the mean over time."""

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        super().setup(config, policy)
        init = normal(config.initializer_range)
        self.projector = Linear(config.hidden_size, config.classifier_proj_size, policy, init=init)
        self.classifier = Linear(config.classifier_proj_size, config.num_labels, policy, init=init)

    def classify(
        self, hidden_states: jax.Array, inputs: dict[str, Any], kept: dict[str, Any]
    ) -> SequenceClassifierOutput:
        lengths = lengths_of(self.config, inputs.get("attention_mask"), hidden_states)
        mean, _ = moments(self.projector(hidden_states), lengths)
        return SequenceClassifierOutput(logits=self.classifier(mean), **kept)


class Wav2Vec2ForAudioFrameClassification(Wav2Vec2WithLayerSum):
    """A label for each frame."""

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        super().setup(config, policy)
        self.classifier = Linear(config.hidden_size, config.num_labels, policy, init=normal(config.initializer_range))

    def classify(self, hidden_states: jax.Array, inputs: dict[str, Any], kept: dict[str, Any]) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.classifier(hidden_states), **kept)


class Wav2Vec2ForXVector(Wav2Vec2WithLayerSum):
    """Who speaks, by mean and deviation over time (x-vectors)."""

    takes_adapter = True

    def setup(self, config: Wav2Vec2Config, policy: Policy) -> None:
        super().setup(config, policy)
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

    def classify(self, hidden_states: jax.Array, inputs: dict[str, Any], kept: dict[str, Any]) -> XVectorOutput:
        lengths = lengths_of(self.config, inputs.get("attention_mask"), hidden_states)
        hidden_states = self.projector(hidden_states)
        for layer in self.tdnn:
            hidden_states = layer(hidden_states)
            lengths = lengths - (layer.width - 1)  # dilation is not counted in transformers either
        mean, deviation = moments(hidden_states, lengths)
        embeddings = self.feature_extractor(jnp.concatenate([mean, deviation], axis=-1))
        return XVectorOutput(logits=self.classifier(embeddings), embeddings=embeddings, **kept)


def lengths_of(config: Wav2Vec2Config, attention_mask: jax.Array | None, hidden_states: jax.Array) -> jax.Array:
    """How many frames of each row are audio, int `[batch]`."""
    if attention_mask is None:
        return jnp.full(len(hidden_states), hidden_states.shape[1])
    return config.adapted(config.frames(attention_mask.sum(-1)))
