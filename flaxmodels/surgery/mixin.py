"""What can be changed in the structure of a model, as one mixin."""

from __future__ import annotations

from flaxmodels.surgery.embeddings import EmbeddingAccessMixin
from flaxmodels.surgery.encoders import EncoderDecoderAccessMixin
from flaxmodels.surgery.freezing import FreezingMixin
from flaxmodels.surgery.heads import HeadPruningMixin
from flaxmodels.surgery.ties import TiedWeightsMixin


class SurgeryMixin(EmbeddingAccessMixin, TiedWeightsMixin, HeadPruningMixin, EncoderDecoderAccessMixin, FreezingMixin):
    """Embeddings, ties, attention heads, encoders and decoders, and which parameters train."""
