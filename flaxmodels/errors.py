"""The errors that flaxmodels raises. All are `ValueError`s, so a caller needs to know only that."""


class FlaxModelsError(ValueError):
    """Base of every error that this library raises about its input."""


class CheckpointError(FlaxModelsError):
    """A checkpoint file or folder that cannot be read: absent, truncated, corrupt or hostile."""


class CheckpointMismatch(CheckpointError):
    """A readable checkpoint that does not fit the model: missing tensors or tensors of another shape."""


class ConfigError(FlaxModelsError):
    """A configuration that is unknown, contradictory, or asks for numerics that are not implemented."""
