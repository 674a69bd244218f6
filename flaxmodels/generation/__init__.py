"""Generation of text: settings, the choice of a token, and the compiled decoding loop."""

from flaxmodels.generation.compilation import compilation_cache

__all__ = ["compilation_cache"]
