"""Generation of text: settings, the choice of a token, and the compiled decoding loop."""

from flaxmodels.generation.generate import GenerateOutput, can_generate, generate

__all__ = ["GenerateOutput", "can_generate", "generate"]
