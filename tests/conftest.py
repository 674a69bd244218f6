"""What every test runs under: eight virtual CPU devices, strict JAX, no network, one thread for torch.

Compiled programs are tiny here, so that optimising them costs more than it gains. Where torch is not installed, files
of tests that compare with it are left out.
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_XLA_FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
_XLA_FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
if version("jaxlib") < "0.11":  # later releases know no other way
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_XLA_FLAGS, os.environ.get("XLA_FLAGS", "")])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "flaxmodels-tests-jax-cache"))

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_OF_TORCH = "torch|transformers|h5py|accelerate|models.torch_reference|safetensors.torch"
NEEDS_TORCH = re.compile(rf"^(from|import) ({_OF_TORCH})\b", re.MULTILINE)
if find_spec("torch") is None:
    files = Path(__file__).parent.rglob("*.py")
    collect_ignore = [str(file) for file in files if NEEDS_TORCH.search(file.read_text())]


def pytest_collection_finish() -> None:
    """What has been imported stays, and is not searched for garbage again and again."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run the tests of an architecture, or else of a file, so that what they share is made once.

    Groups with real weights come first, because they take longest; of an architecture, one case follows another.
    """
    groups = {item: _group(item) for item in items}
    slow = {groups[item] for item in items if item.get_closest_marker("real_weights")}
    cases = {case: number for number, case in enumerate(dict.fromkeys(map(_case, items)))}
    architectures = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: (groups[item] not in slow, architectures[groups[item]], cases[_case(item)]))


def _case(item: pytest.Item) -> Any:
    """The row of the table of architectures that a test is parametrised with."""
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if hasattr(case, "family") else None


def _group(item: pytest.Item) -> str:
    case = _case(item)
    return item.nodeid.partition("::")[0] if case is None else case.family.module.rpartition(".")[2]
