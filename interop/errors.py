"""The error of this package."""


class InteropError(ValueError):
    """Foreign weights that cannot be read, or a package that is needed to read them and absent."""
