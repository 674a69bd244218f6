"""ALBERT (arXiv 1909.11942): BERT whose layers share their parameters, with small embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from flaxmodels.bases.encoder_heads import (
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForSequenceClassification,
    EncoderForTokenClassification,
    EncoderWithLMHead,
    classifier,
)
from flaxmodels.bases.parts import place
from flaxmodels.bases.transformer import LayerSpec, TransformerLayer
from flaxmodels.fields import Activation, Layers, Rate, Size, SpecialId, SpecialIds, VocabSize
from flaxmodels.models.bert import BertConfig, BertModel
from flaxmodels.nn.dense import Linear
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.nn.stack import RepeatedStack, StackOutput
from flaxmodels.outputs import SentenceOrderOutput
from flaxmodels.policy import Policy


class AlbertConfig(BertConfig):
    """Configuration of ALBERT; the defaults are those of transformers."""

    model_type = "albert"

    vocab_size: VocabSize = 30000
    embedding_size: Size = 128
    hidden_size: Size = 4096
    num_hidden_groups: Layers = 1
    num_attention_heads: Size = 64
    intermediate_size: Size = 16384
    inner_group_num: Size = 1
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    classifier_dropout_prob: Rate = 0.1
    bos_token_id: SpecialId | None = 2
    eos_token_id: SpecialIds | None = 3

    @property
    def classifier_dropout(self) -> float:
        """Its common name."""
        return self.classifier_dropout_prob

    @classifier_dropout.setter
    def classifier_dropout(  # pyright: ignore[reportIncompatibleVariableOverride]  # it is read and set as that field is
        self, rate: float | None
    ) -> None:
        self.classifier_dropout_prob = self.classifier_dropout_prob if rate is None else rate

    def validation_errors(self) -> list[str]:
        found = super().validation_errors()
        if self.inner_group_num != 1:
            found.append(f"inner_group_num={self.inner_group_num}: only 1 is implemented")
        if self.is_decoder:
            found.append("is_decoder=True: ALBERT does not decode")
        return found

    @property
    def layer_spec(self) -> LayerSpec:
        spec = super().layer_spec
        return replace(spec, rates=replace(spec.rates, mlp=0.0))


class AlbertLayer(TransformerLayer):
    """A group of layers, which share all parameters, as one layer."""

    names = {
        "mlp_norm": "albert_layers.0.full_layer_layer_norm",
        "query": "albert_layers.0.attention.query",
        "key": "albert_layers.0.attention.key",
        "value": "albert_layers.0.attention.value",
        "attn_out": "albert_layers.0.attention.dense",
        "attn_norm": "albert_layers.0.attention.LayerNorm",
        "mlp_in": "albert_layers.0.ffn",
        "mlp_out": "albert_layers.0.ffn_output",
    }


class AlbertModel(BertModel):
    """The encoder without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = AlbertConfig
    prunable_layers = ""  # layers share their parameters
    base_model_prefix = "albert"
    tp_plan = {"(attention/(query|key|value)|ffn|decoder)": COLUMN, "(attention/dense|ffn_output|word_embeddings)": ROW}
    lm_head_names = {
        "norm": "predictions.LayerNorm",
        "bias": "predictions.bias",
        "dense": "predictions.dense",
        "decoder": "predictions.decoder",
    }
    layers_path = "encoder.albert_layer_groups"
    pooler_path = "pooler"
    encoder: Any

    def setup(self, config: AlbertConfig, policy: Policy, *, add_pooling_layer: bool = True) -> None:
        init = normal(config.initializer_range)
        enlarge = Linear(config.embedding_size, config.hidden_size, policy, init=init)
        self.embeddings = self.make_embeddings(config, policy)
        place(self, "encoder.embedding_hidden_mapping_in", enlarge)
        place(self, self.layers_path, self.make_layers(config, policy))
        self.add_pooler(config, policy, add_pooling_layer)

    def make_layers(self, config: AlbertConfig, policy: Policy) -> RepeatedStack:
        spec, count, groups = config.layer_spec, config.num_hidden_layers, config.num_hidden_groups
        return RepeatedStack(lambda: AlbertLayer(spec, policy), count, groups, policy)

    def run_layers(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        return super().run_layers(self.encoder.embedding_hidden_mapping_in(hidden_states), **options)


class AlbertForPreTraining(EncoderWithLMHead):
    """Masked language modelling and the order of sentences."""

    base_class = AlbertModel
    base_options = {}
    sop_classifier: Any

    def setup(self, config: AlbertConfig, policy: Policy) -> None:
        super().setup(config, policy)
        place(self, "sop_classifier.classifier", classifier(config, policy, config.num_labels))

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SentenceOrderOutput:
        pooled = dropout(outputs.pooler_output, self.config.classifier_dropout_prob, dropout_rng)
        return outputs.to(
            SentenceOrderOutput,
            prediction_logits=self.predict(outputs.last_hidden_state),
            sop_logits=self.sop_classifier.classifier(pooled),
        )


class AlbertForMaskedLM(EncoderForMaskedLM):
    base_class = AlbertModel


class AlbertForSequenceClassification(EncoderForSequenceClassification):
    base_class = AlbertModel


class AlbertForMultipleChoice(EncoderForMultipleChoice):
    base_class = AlbertModel


class AlbertForTokenClassification(EncoderForTokenClassification):
    base_class = AlbertModel


class AlbertForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = AlbertModel
