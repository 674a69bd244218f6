"""Compiled programs that outlive the process."""

from __future__ import annotations

import os


def compilation_cache(folder: str | os.PathLike[str]) -> None:
    """Keep every program that JAX compiles from now on in `folder`, which is made if absent, and read it from there.

    This holds for the whole process. A program is found again by the same version of JAX, on the same kind of device.
    """
    # Imported here, as reading a GenerationConfig needs no JAX.
    import jax
    from jax.experimental.compilation_cache import compilation_cache as persistent

    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX decides at its first compilation whether it has a cache and where, and never again.
    persistent.reset_cache()
