"""The errors that flaxmodels raises. All are `ValueError`s, so a caller needs to know only that."""


class FlaxModelsError(ValueError):
    """Base of every error that this library raises about its input."""


class CheckpointError(FlaxModelsError):
    """A checkpoint file or folder that cannot be read: absent, truncated, corrupt or hostile."""


class CheckpointNotFound(CheckpointError, OSError):
    """A path, a repository of the Hub, a revision, or a file of one of these that is not there. Also an `OSError`."""


class HubError(CheckpointError, OSError):
    """A repository of the Hub that refuses to be read or written, or a transfer that fails. Also an `OSError`."""


class CheckpointMismatch(CheckpointError):
    """A readable checkpoint that does not fit the model: missing tensors or tensors of another shape."""


class ConfigError(FlaxModelsError):
    """A configuration that is unknown, contradictory, or asks for numerics that are not implemented."""
