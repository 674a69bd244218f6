"""Imports run downwards only, optional packages are imported where they are needed, and importing is cheap."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = [
    {"interop"},
    {"flaxmodels.errors", "flaxmodels.tasks"},
    {"flaxmodels.fields", "flaxmodels.read_only", "flaxmodels.policy"},
    {"flaxmodels.files", "flaxmodels.arguments"},
    {"flaxmodels.hub"},
    {"flaxmodels.nn", "flaxmodels.config", "flaxmodels.outputs", "flaxmodels.tokenizer"},
    {"flaxmodels.parameters", "flaxmodels.capability"},
    {"flaxmodels.execution", "flaxmodels.sharding"},
    {
        "flaxmodels.analysis",
        "flaxmodels.checkpoint",
        "flaxmodels.generation",
        "flaxmodels.module_utils",
        "flaxmodels.surgery",
    },
    {"flaxmodels.model"},
    {"flaxmodels.bases"},
    {"flaxmodels.models"},
    {"flaxmodels.architectures"},
    {"flaxmodels.registry"},
    {"flaxmodels.torch_interop"},
    {"flaxmodels.cli"},
]
"""From the bottom up. A package imports itself and lower ones; within a level, `outputs` alone may import `nn`."""

OPTIONAL = {
    "torch": "interop/torch_bridge.py",
    "transformers": "interop/torch_bridge.py",
    "h5py": "flaxmodels/files/h5.py",
    "matplotlib": "flaxmodels/cli/verify.py",
    "psutil": "flaxmodels/analysis/memory.py",
}
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("flaxmodels", "interop")
    for path in (ROOT / package).rglob("*.py")
)


def imported(path: str) -> set[str]:
    """Every module that a file imports anywhere, type checking aside."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level_of(module: str) -> tuple[int, str] | None:
    """Number of the level, and name of the package, that a module is in."""
    for level, packages in enumerate(LEVELS):
        for package in packages:
            if module == package or module.startswith(package + "."):
                return level, package
    return None


@pytest.mark.parametrize("path", [path for path in MODULES if path != "flaxmodels/__init__.py"])
def test_imports_run_downwards(path):
    own = level_of(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert own is not None, f"{path} is on no level: name it in LEVELS"
    for module in imported(path):
        if module.split(".")[0] in ("flaxmodels", "interop") and module not in ("flaxmodels", "flaxmodels.__version__"):
            other = level_of(module)
            assert other is not None, f"{path} imports {module}, which is on no level"
            beside = other[0] == own[0] and (own[1], other[1]) in {("flaxmodels.outputs", "flaxmodels.nn")}
            assert other[0] < own[0] or other == own or beside, f"{path} imports {module}, which is not below it"


@pytest.mark.parametrize("path", MODULES)
def test_optional_packages_stay_optional(path):
    roots = {module.split(".")[0] for module in imported(path)}
    for package, home in OPTIONAL.items():
        assert package not in roots or path == home, f"{path} imports {package}"


def test_a_model_imports_at_most_one_sibling():
    for path in (path for path in MODULES if path.startswith("flaxmodels/models/")):
        siblings = {module.split(".")[2] for module in imported(path) if module.startswith("flaxmodels.models.")}
        assert len(siblings) <= 1, f"{path} imports {siblings}"


def test_a_decoder_is_read_without_another_architecture():
    for path in (path for path in MODULES if path.startswith("flaxmodels/models/")):
        modules = imported(path)
        if "flaxmodels.bases.decoder" in modules or "flaxmodels.bases.sparse_decoder" in modules:
            assert not any(module.startswith("flaxmodels.models.") for module in modules), path


def test_importing_flaxmodels_imports_neither_jax_nor_torch_nor_a_model():
    code = "import sys, flaxmodels; print([m for m in sys.modules if m.split('.')[0] in ('jax', 'torch', 'flax')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_interop_needs_only_numpy_and_ml_dtypes():
    code = "import sys, interop.plan, interop.dialects.gguf; print('jax' in sys.modules, 'flaxmodels' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"


def test_describing_a_model_starts_no_backend():
    """`jax.distributed.initialize` must come before the first backend, and a description may be wanted before it."""
    code = """if True:
        from flaxmodels import AutoConfig, AutoModel
        from flaxmodels.architectures import ARCHITECTURES
        from flaxmodels.checkpoint.mapping import torch_headers
        for model_type, architecture in ARCHITECTURES.items():
            if "AutoModel" in architecture.tasks:
                config = AutoConfig.for_model(model_type)
                assert torch_headers(AutoModel.from_config(config, _do_init=False))
    """
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_PLATFORMS": "none"})
