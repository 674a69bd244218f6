"""DistilBERT (arXiv 1910.01108): a BERT of half the layers, without token types and pooler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from flaxmodels.bases.encoder import EncoderModel
from flaxmodels.bases.encoder_heads import (
    EncoderForMaskedLM,
    EncoderForMultipleChoice,
    EncoderForQuestionAnswering,
    EncoderForTokenClassification,
    classifier,
)
from flaxmodels.bases.heads import ModelWithHead
from flaxmodels.bases.parts import set_base
from flaxmodels.bases.transformer import DropoutRates, LayerSpec, TransformerLayer
from flaxmodels.config import PreTrainedConfig
from flaxmodels.fields import Activation, Layers, Length, Rate, Scale, Size, SpecialId, VocabSize
from flaxmodels.nn.dropout import dropout
from flaxmodels.nn.initializers import normal
from flaxmodels.nn.partition import COLUMN, ROW
from flaxmodels.outputs import BaseModelOutput, QuestionAnsweringOutput, SequenceClassifierOutput
from flaxmodels.policy import Policy


class DistilBertConfig(PreTrainedConfig):
    """Configuration of DistilBERT; the defaults are those of distilbert-base-uncased."""

    model_type = "distilbert"
    attribute_map = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    multiples = (("dim", "n_heads"),)

    vocab_size: VocabSize = 30522
    max_position_embeddings: Length = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Layers = 6
    n_heads: Size = 12
    dim: Size = 768
    hidden_dim: Size = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation: Activation = "gelu"
    initializer_range: Scale = 0.02
    qa_dropout: Rate = 0.1
    seq_classif_dropout: Rate = 0.2
    pad_token_id: SpecialId | None = 0

    @property
    def classifier_rate(self) -> float:
        """Dropout rate before a classifier of tokens."""
        return self.dropout

    @property
    def layer_spec(self) -> LayerSpec:
        """The numbers of a layer."""
        return LayerSpec(
            self.dim,
            self.n_heads,
            self.hidden_dim,
            activation=self.activation,
            epsilon=1e-12,
            init=normal(self.initializer_range),
            rates=DropoutRates(weights=self.attention_dropout, mlp=self.dropout),
        )


class DistilBertLayer(TransformerLayer):
    """A layer with norms after attention and feed-forward network."""

    names = {
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "query": "attention.q_lin",
        "attn_out": "attention.out_lin",
        "attn_norm": "sa_layer_norm",
        "mlp_in": "ffn.lin1",
        "mlp_out": "ffn.lin2",
        "mlp_norm": "output_layer_norm",
    }


class DistilBertModel(EncoderModel):
    """The encoder without a head."""

    config_class = DistilBertConfig
    base_model_prefix = "distilbert"
    keys_to_ignore_on_load = (r"embeddings\.position_ids$",)
    tp_plan = {"(q_lin|k_lin|v_lin|lin1|vocab_projector)": COLUMN, "(out_lin|lin2|word_embeddings)": ROW}
    layer_class = DistilBertLayer
    layers_path = prunable_layers = "transformer.layer"
    pooler_path = ""
    lm_head_names = {"dense": "vocab_transform", "norm": "vocab_layer_norm", "decoder": "vocab_projector"}

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        dropout_rng: jax.Array | None = None,
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_ids: int `[batch, q_len]`; or `inputs_embeds` `[batch, q_len, hidden]` in its place.
            attention_mask: `[batch, q_len]`, 0 for padding.
            position_ids: int `[batch, q_len]`; 0, 1, ... if not given.

        Raises:
            FlaxModelsError: not exactly one of `input_ids` and `inputs_embeds`.
        """
        inputs = (input_ids, inputs_embeds, attention_mask, position_ids)
        options: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs = self.encode(*inputs, **options, dropout_rng=dropout_rng)
        return outputs.to(BaseModelOutput)


class DistilBertForMaskedLM(EncoderForMaskedLM):
    base_class = DistilBertModel


class DistilBertForSequenceClassification(ModelWithHead):
    """Sentence (pair) classification or regression, by two dense layers on the state of the first token."""

    base_class = DistilBertModel

    def setup(self, config: DistilBertConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        self.pre_classifier = classifier(config, policy, config.dim)
        self.classifier = classifier(config, policy, config.num_labels)

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> SequenceClassifierOutput:
        first = jax.nn.relu(self.pre_classifier(outputs.last_hidden_state[:, 0]))
        logits = self.classifier(dropout(first, self.config.seq_classif_dropout, dropout_rng))
        return outputs.to(SequenceClassifierOutput, logits=logits)


class DistilBertForMultipleChoice(EncoderForMultipleChoice):
    base_class = DistilBertModel

    def setup(self, config: DistilBertConfig, policy: Policy) -> None:
        set_base(self, config, policy)
        self.pre_classifier = classifier(config, policy, config.dim)
        self.classifier = classifier(config, policy, 1)

    def summarise(self, outputs: Any, dropout_rng: jax.Array | None) -> jax.Array:
        first = jax.nn.relu(self.pre_classifier(outputs.last_hidden_state[:, 0]))
        return dropout(first, self.config.seq_classif_dropout, dropout_rng)


class DistilBertForTokenClassification(EncoderForTokenClassification):
    base_class = DistilBertModel


class DistilBertForQuestionAnswering(EncoderForQuestionAnswering):
    base_class = DistilBertModel

    def head(self, outputs: Any, inputs: dict[str, Any], dropout_rng: jax.Array | None) -> QuestionAnsweringOutput:
        dropped = dropout(outputs.last_hidden_state, self.config.qa_dropout, dropout_rng)
        return super().head(replace(outputs, last_hidden_state=dropped), inputs, dropout_rng)
