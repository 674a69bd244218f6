"""What a model that predicts the next token can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from flaxmodels.capability import Capability
from flaxmodels.files.reading import read_json
from flaxmodels.generation.config import GENERATION_CONFIG_NAME, GenerationConfig
from flaxmodels.generation.generate import generate, stream, warmup
from flaxmodels.nn.cache import Cache, empty_cache
from flaxmodels.policy import to_dtype


class GenerationMixin(Capability):
    """Generates completions of prompts.

    Attributes:
        predicts_next_token: whether `generate` works; set by models with a head for causal language modelling.
        padding_takes_positions: whether `prepare_inputs_for_generation` counts padding.
        generation_config: settings of `generate` where a call gives none.
    """

    predicts_next_token: ClassVar[bool] = False
    padding_takes_positions: ClassVar[bool] = False
    generation_config: GenerationConfig

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model predicts the next token."""
        return cls.predicts_next_token

    generate = generate
    stream = stream
    warmup = warmup

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> Cache:
        """An empty cache for `batch_size` sequences of `max_length` tokens, by default in `policy.dtype`.

        Raises:
            ConfigError: `dtype` is not a floating dtype.
        """
        config, stored = self.config, to_dtype(dtype or self.policy.dtype)
        windows = config.attention_windows
        if self.policy.scan_layers and len(set(windows)) > 1:  # layers are stacked, and so must be of one shape
            windows = (None,) * len(windows)
        return tuple(
            empty_cache(batch_size, max_length, kv_heads, config.features_per_head, stored, window)
            for kv_heads, window in zip(config.layer_kv_heads, windows, strict=True)
        )

    def empty_prompt(self, batch_size: int, prompt_len: int) -> dict[str, np.ndarray]:
        """Arguments of `generate` that stand for any of this size."""
        ids = np.zeros((batch_size, prompt_len), np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def prepare_inputs_for_generation(
        self, input_ids: jax.Array, attention_mask: jax.Array, position_ids: jax.Array, cache: Cache
    ) -> dict[str, Any]:
        """The inputs of `forward` for the next tokens `[batch, q_len]` of sequences; the mask is of whole sequences."""
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": cache,
        }

    def companion_files(self) -> dict[str, str]:
        """As for all; `generation_config.json` where it says more than the configuration of the model."""
        files, settings = super().companion_files(), self.generation_config
        if settings.to_dict() != GenerationConfig.from_model_config(self.config).to_dict():
            files[GENERATION_CONFIG_NAME] = settings.to_json_string()
        return files

    def read_companion_files(self, find: Callable[[str], Path | None]) -> None:
        """As for all; `generation_config.json` if there is one and the model generates."""
        super().read_companion_files(find)
        if self.can_generate() and (path := find(GENERATION_CONFIG_NAME)):
            self.generation_config = GenerationConfig.from_dict(read_json(path))
