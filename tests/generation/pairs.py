"""Models beside their torch counterparts, and what both continue."""

from __future__ import annotations

import numpy as np
import torch
from models.tiny_configs import CASES
from models.torch_reference import torch_model

GENERATIVE = [case for case in CASES if case.is_decoder and case.ours.can_generate()]
LLAMA = next(case for case in GENERATIVE if case.head == "LlamaForCausalLM")


def make_pair(case, folder):
    reference = torch_model(case)
    reference.generation_config.eos_token_id = None
    reference.save_pretrained(folder)
    return case.ours.from_pretrained(folder), reference


def prompts(model, rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of prompts of different lengths, padded on the left."""
    rng, pad = np.random.default_rng(seed), model.config.pad_token_id
    tokens = [token for token in range(model.config.vocab_size) if token != pad]
    ids = rng.choice(tokens, (rows, length))
    mask = (np.arange(length) >= np.arange(rows)[:, None] * 2).astype(np.int32)
    return {"input_ids": np.where(mask, ids, pad), "attention_mask": mask}


def torch_sequences(reference, batch, **settings) -> np.ndarray:
    """What transformers generates."""
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in batch.items()}
    pad = {"pad_token_id": reference.config.pad_token_id}
    return reference.generate(**tensors, **{"do_sample": False, **pad, **settings}).numpy()
