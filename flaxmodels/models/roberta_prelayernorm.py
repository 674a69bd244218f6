"""RoBERTa with pre-layer norms (arXiv 2202.08005, after arXiv 1904.01038): a norm before each half of a layer."""

from __future__ import annotations

from typing import Any

import jax

from flaxmodels.bases.transformer import TransformerLayer, pre_norm
from flaxmodels.models.roberta import (
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)
from flaxmodels.nn.stack import StackOutput
from flaxmodels.policy import Policy


class RobertaPreLayerNormConfig(RobertaConfig):
    """Configuration of RoBERTa with pre-layer norms; the defaults are those of transformers."""

    model_type = "roberta-prelayernorm"


class RobertaPreLayerNormLayer(TransformerLayer):
    """A layer with norms before attention and feed-forward network."""

    residual = staticmethod(pre_norm)
    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attn_out": "attention.output.dense",
        "attn_norm": "attention.LayerNorm",
        "cross_query": "crossattention.self.query",
        "cross_key": "crossattention.self.key",
        "cross_value": "crossattention.self.value",
        "cross_attn_out": "crossattention.output.dense",
        "cross_attn_norm": "crossattention.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_norm": "intermediate.LayerNorm",
        "mlp_out": "output.dense",
    }


class RobertaPreLayerNormModel(RobertaModel):
    """The encoder (or decoder) without a head, and the pooler unless `add_pooling_layer=False`."""

    config_class = RobertaPreLayerNormConfig
    base_model_prefix = "roberta_prelayernorm"
    layer_class = RobertaPreLayerNormLayer

    def setup(self, config: RobertaPreLayerNormConfig, policy: Policy, *, add_pooling_layer: bool = True) -> None:
        super().setup(config, policy, add_pooling_layer=add_pooling_layer)
        self.LayerNorm = config.layer_spec.norm(policy)

    def run_layers(self, hidden_states: jax.Array, **options: Any) -> StackOutput:
        return super().run_layers(hidden_states, **options).normalised(self.LayerNorm)


class RobertaPreLayerNormForMaskedLM(RobertaForMaskedLM):
    base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForCausalLM(RobertaForCausalLM):
    base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForSequenceClassification(RobertaForSequenceClassification):
    base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForMultipleChoice(RobertaForMultipleChoice):
    base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForTokenClassification(RobertaForTokenClassification):
    base_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForQuestionAnswering(RobertaForQuestionAnswering):
    base_class = RobertaPreLayerNormModel
