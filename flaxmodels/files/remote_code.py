"""Classes of a user's own: their source is saved beside the weights, and run again only where that is asked for.

A configuration names them under "auto_map", as `{"AutoModel": "otters.OtterModel"}` with `otters.py` beside it. Nothing
is written to read them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from flaxmodels.errors import CheckpointError, FlaxModelsError

AUTO_MAP = "auto_map"
MAX_BYTES = 2**20
"""Of a file of code; the largest of transformers has a quarter of it."""
_PACKAGE = "flaxmodels_code_"
_REFERENCE = re.compile(r"(?P<module>\w+)\.(?P<name>\w+)")
_FINDERS: dict[str, Callable[[str], Path | None]] = {}
"""By package, what finds the files that it was made of."""


# ---- saving


def registered(cls: type, auto_class: Any, expected: Collection[str]) -> str:
    """The name of the `Auto...` class that `cls` is registered for.

    Raises:
        FlaxModelsError: there is no such one for this class, or the class is of this library.
    """
    name = auto_class if isinstance(auto_class, str) else auto_class.__name__
    plain = name.removeprefix("Flax").removeprefix("TF")
    if plain not in expected:
        raise FlaxModelsError(f"{name} cannot choose {cls.__name__}: expected one of {', '.join(expected)}")
    if cls.__module__.split(".")[0] == "flaxmodels":
        raise FlaxModelsError(f"{cls.__name__} is of this library, whose Auto classes know it: nothing to register")
    return plain


def auto_map(classes: Iterable[type]) -> dict[str, str]:
    """What a configuration says of those of the classes that are registered."""
    chosen = ((vars(cls).get("_auto_class"), cls) for cls in classes)
    return {auto: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for auto, cls in chosen if auto}


def sources(classes: Iterable[type]) -> dict[str, str]:
    """Names and contents of the files that define those of the classes that are registered.

    Raises:
        FlaxModelsError: a class is not in a module of its own, or that imports what is not beside it.
    """
    found: dict[str, str] = {}
    for cls in classes:
        if vars(cls).get("_auto_class"):
            _add_source(found, cls.__module__, f"{cls.__name__} is registered for {vars(cls)['_auto_class']}, but")
    return found


def _add_source(found: dict[str, str], module: str, problem: str) -> None:
    name = f"{module.rpartition('.')[2]}.py"
    if name in found:
        return
    loader: Any = getattr(sys.modules[module], "__loader__", None)
    source = loader.get_source(module) if module != "__main__" and hasattr(loader, "get_source") else None
    if source is None:
        raise FlaxModelsError(f"{problem} is not defined in a module with a file, which could be saved: move it there")
    found[name] = source
    for beside in _imported_from_beside(source, f"{problem} {name}"):
        _add_source(found, importlib.util.resolve_name(f".{beside}", sys.modules[module].__package__), problem)


def _imported_from_beside(source: str, problem: str) -> list[str]:
    """The modules that a file imports from its own folder."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.level]
    names = [[node.module] if node.module else [alias.name for alias in node.names] for node in imports]
    if any(node.level > 1 or "." in (node.module or "") for node in imports):
        raise FlaxModelsError(f"{problem} imports from another folder: put what it needs beside it")
    return [name for each in names for name in each]


# ---- loading


def load_class(references: Mapping[str, Any], auto: str, find: Callable[[str], Path | None], where: str) -> Any:
    """Run the code beside a configuration, and return the class that it names.

    Args:
        references: its "auto_map".
        auto: the `Auto...` class that chooses.
        find: gives the path of a file beside the configuration, or `None`.
        where: what errors call the folder.

    Raises:
        CheckpointError: there is no such code, or it is not made for this library; none is run then.
    """
    texts: dict[str, str] = {}
    if has_code(references, auto, find):
        for reference in references.values():
            if isinstance(reference, str) and (match := _REFERENCE.fullmatch(reference)):
                _collect(texts, match["module"], find)
    match = _REFERENCE.fullmatch(str(references[auto]))
    if match is None or match["module"] not in texts:
        raise CheckpointError(
            f"{where}: {auto} is {references[auto]!r} in auto_map, and there is no file of that name that imports "
            "flaxmodels: it was not run. Leave trust_remote_code out to use a class of flaxmodels."
        )
    content = "\0".join(text for item in sorted(texts.items()) for text in item)
    package = _PACKAGE + hashlib.sha256(content.encode()).hexdigest()[:16]
    _FINDERS[package] = find
    module = _run(package, match["module"], texts)
    found = getattr(module, match["name"], None)
    if not isinstance(found, type):
        raise CheckpointError(f"{where}: {match['module']}.py has no class {match['name']}, which auto_map names")
    return found


def has_code(references: Mapping[str, Any], auto: str, find: Callable[[str], Path | None]) -> bool:
    """Whether there is code beside a configuration that is made for this library; none is run."""
    texts: dict[str, str] = {}
    match = _REFERENCE.fullmatch(str(references.get(auto)))
    try:
        if match is not None:
            _collect(texts, match["module"], find)
        return match is not None and match["module"] in texts and _is_ours(match["module"], texts)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # of others, who have other rules, or of nobody
        return False


def finder_of(cls: type) -> Callable[[str], Path | None] | None:
    """What finds the files beside the one that defines a class, if that was loaded from beside a configuration."""
    return _FINDERS.get(cls.__module__.partition(".")[0])


def _collect(texts: dict[str, str], module: str, find: Callable[[str], Path | None]) -> None:
    """Add the source of a module, after that of those that it imports from beside itself."""
    if module in texts or (path := find(f"{module}.py")) is None:
        return
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{module}.py has more than {MAX_BYTES} bytes: it is no module of a model")
    text = path.read_text(encoding="utf-8")
    texts[module] = text
    for beside in _imported_from_beside(text, f"{module}.py"):
        _collect(texts, beside, find)


def _is_ours(module: str, texts: Mapping[str, str]) -> bool:
    """Whether a module, or one that it imports from beside itself, imports this library."""
    tree = ast.parse(texts[module])
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    beside = _imported_from_beside(texts[module], f"{module}.py")
    return any(name.split(".")[0] == "flaxmodels" for name in names) or any(
        _is_ours(name, texts) for name in beside if name in texts
    )


class _TextLoader(importlib.abc.InspectLoader):
    """Loads a module from its text, and writes no compiled file beside it."""

    def __init__(self, text: str):
        self.text = text

    def get_source(self, fullname: str) -> str:
        return self.text


def _run(package: str, module: str, texts: Mapping[str, str]) -> ModuleType:
    """The module, run once for each text, with those that it imports from beside itself."""
    if (full := f"{package}.{module}") in sys.modules:
        return sys.modules[full]
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = []
    for beside in _imported_from_beside(texts[module], f"{module}.py"):
        if beside in texts:
            _run(package, beside, texts)
    loader = _TextLoader(texts[module])
    made = importlib.util.module_from_spec(ModuleSpec(full, loader, origin=f"{module}.py"))
    made.__file__ = f"<{full}>"
    sys.modules[full] = made
    try:
        loader.exec_module(made)
    except BaseException:
        del sys.modules[full]
        raise
    return made
