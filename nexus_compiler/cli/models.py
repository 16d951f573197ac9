"""Models that are named on the command line: an ONNX file, or a function of a Python file."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nexus_runtime.errors import UserError, nearest


@dataclass(frozen=True)
class Given:
    """A model and the example inputs that a PyTorch module needs."""

    model: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Named:
    """`MODEL.onnx`, or `MODEL.py:factory`, which is run anew each time.

    The factory takes nothing and returns what `nexus_compiler.compile` takes; a PyTorch module with
    a tuple of its example inputs, or a dict of them by name: `return module, (torch.zeros(1, 3),)`.

    Attributes:
        path: the file.
        files: what the model was made from: that file, and those of its folder that it imports.

    Raises:
        UserError: it is a Python file, and no function of it is named.
    """

    def __init__(self, text: str) -> None:
        path, colon, self._factory = text.rpartition(":")
        if not colon or not path.endswith(".py"):
            path, self._factory = text, ""
        self.path = Path(path)
        self.files: set[Path] = {self.path}
        if self.path.suffix == ".py" and not self._factory:
            raise UserError(
                f"{text} does not say which function makes the model",
                hint=f"write {text}:NAME, where `def NAME(): return model` is in that file",
            )

    def make(self) -> Given:
        """Run the factory, with everything of the file's folder imported anew.

        Raises:
            UserError: the file is missing, has no such function, or returns what cannot be meant.
            Exception: whatever the user's own code raises.
        """
        if not self._factory:
            return Given(self.path)
        if not self.path.is_file():
            raise UserError(f"there is no file '{self.path}'", hint="check the path")
        with _fresh(self.path.parent.resolve()) as read:
            try:
                module = _run(self.path.resolve())
                made = self._found(module)()
            finally:
                self.files = {self.path, *read}
        return _given(made)

    def _found(self, module: ModuleType) -> Any:
        found = getattr(module, self._factory, None)
        if not callable(found):
            names = [name for name, value in vars(module).items() if callable(value)]
            raise UserError(
                f"{self.path} has no function '{self._factory}'",
                hint=nearest(self._factory, names),
            )
        return found


def _given(made: Any) -> Given:
    if isinstance(made, dict | list) or made is None:
        raise UserError(
            f"the factory returned a {type(made).__name__}, which is no model",
            hint="return the model, or of a PyTorch module (module, example inputs)",
        )
    if not isinstance(made, tuple):
        return Given(made)
    model, *inputs = made
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    for one in inputs:
        if isinstance(one, Mapping):
            kwargs = one
        elif isinstance(one, tuple | list):
            args = one
        else:
            raise UserError(
                f"the factory returned a {type(one).__name__} beside the model",
                hint="return (module, (input, ...)) or (module, {'name': input})",
            )
    return Given(model, args, kwargs)


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads the source, never a cache: caches know times to the second, and people save faster."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_FOUND: set[str] = set()
"""Names that were found in the folder of any model: another model may mean another file by one."""


class _Finder:
    """Finds modules in one folder, before all others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.read: set[Path] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        for place in [str(self._folder)] if path is None else path:
            if Path(place).is_relative_to(self._folder):
                finder = importlib.machinery.FileFinder(place, (_Loader, [".py"]))
                spec = finder.find_spec(name, target)
                if spec is not None and spec.loader is not None and spec.origin:
                    self.read.add(Path(spec.origin))
                    _FOUND.add(name)
                    return spec
        return None


@contextlib.contextmanager
def _fresh(folder: Path) -> Generator[set[Path]]:
    """Forget the modules of `folder`, and find those before all others; yields which were read."""
    for name in {*_modules_in(folder), *_FOUND}:
        sys.modules.pop(name, None)
    finder = _Finder(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield finder.read
    finally:
        sys.meta_path.remove(finder)


def _modules_in(folder: Path) -> list[str]:
    found: list[str] = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # What is running now is not the model's, even if it lies there.
        ours = name == "__main__" or name.partition(".")[0] in ("nexus_compiler", "nexus_runtime")
        if isinstance(file, str) and not ours:
            path = Path(file)
            if path.suffix == ".py" and path.is_relative_to(folder) and not _installed(path):
                found.append(name)
    return found


def _installed(path: Path) -> bool:
    return "site-packages" in path.parts or path.is_relative_to(sys.base_prefix)


def _run(path: Path) -> ModuleType:
    loader = _Loader(path.stem, str(path))
    spec = importlib.util.spec_from_loader(path.stem, loader)
    assert spec is not None  # the loader has a file
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    loader.exec_module(module)
    return module
