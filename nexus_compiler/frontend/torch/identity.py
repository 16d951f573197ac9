"""What decides what a module computes, apart from the values of its weights, as one hash.

Two modules of equal identity, called alike, are traced to the same operators. The hash is over
the code that the module can reach (bytecode with its lines, and whatever that names, as far as it
is not of an installed library: those do not change while a process runs) and over its attributes.
Triton's `DependenciesFinder` hashes the functions that a kernel reaches in this way.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import logging
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_OPERATORS = (type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor))
_HOOKS = tuple(name for name in vars(torch.nn.Module()) if name.endswith("_hooks"))
_REACHES_ANYTHING = {"eval", "exec", "globals", "locals", "vars", "__import__", "import_module"}
"""Code with these names may read what cannot be followed."""


class Unknown(Exception):
    """Something decides what a module computes that this file cannot describe."""


class Identities:
    """Finds the identities of modules; equal objects that it met are looked at once.

    Objects must not change while it is used: make one for each capture.
    """

    def __init__(self) -> None:
        self._code: dict[int, tuple[object, bytes]] = {}

    def of(self, module: torch.nn.Module) -> bytes | None:
        """The identity of a module; None where something in it cannot be described."""
        walk = _Walk(self._code)
        try:
            return walk.value(module)
        except (Unknown, RecursionError):
            return None


class _Walk:
    """One walk; what is met again is told by when it was met first.

    Args:
        code: hashes of classes and functions, each of a walk that began there: one that is met on
            the way of such a walk may be told by what came before, so it is not remembered.
    """

    def __init__(self, code: dict[int, tuple[object, bytes]] | None = None) -> None:
        self._known = code
        self._met: dict[int, tuple[object, int]] = {}

    def value(self, value: Any) -> bytes:
        """The hash of any value.

        Raises:
            Unknown: it cannot be described.
        """
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, repr(value))
        if isinstance(value, enum.Enum):
            return _hash("enum", type(value).__qualname__, value.name)
        if id(value) in self._met:
            return _hash("again", str(self._met[id(value)][1]))
        self._met[id(value)] = value, len(self._met)
        return self._described(value)

    def _described(self, value: Any) -> bytes:
        match value:
            case torch.nn.Module():
                return self._module(value)
            case dict() | types.MappingProxyType():
                return self._mapping(value)
            case list() | tuple() | deque():
                return _hash(type(value).__name__, *map(self.value, value))
            case type():
                return self._class(value)
            case types.FunctionType():
                return self._function(value)
            case types.ModuleType() if _installed(value.__name__):
                return _hash("library", value.__name__)
            case torch.Tensor() | types.ModuleType():
                raise Unknown  # elements that are part of the code; anything at all in a module
            case logging.Logger():
                return _hash("logger", value.name)
            case _:
                return self._code_object(value)

    def _code_object(self, value: Any) -> bytes:
        match value:
            case types.MethodType():
                return _hash("method", self.value(value.__func__), self.value(value.__self__))
            case staticmethod() | classmethod():
                return _hash(type(value).__name__, self.value(value.__func__))
            case property():
                return _hash("property", *map(self.value, (value.fget, value.fset, value.fdel)))
            case functools.partial():
                parts = (value.func, value.args, value.keywords)
                return _hash("partial", *map(self.value, parts))
            case _ if isinstance(value, _BUILT_IN):
                return self._built_in(value)
            case _ if isinstance(value, _OPERATORS):
                return _hash("operator", str(value))
            case set() | frozenset():
                return self._set(value)
            case _:
                return self._object(value)

    def _set(self, value: Any) -> bytes:
        if not all(isinstance(one, _PLAIN) for one in value):
            raise Unknown
        return _hash(type(value).__name__, *sorted(map(self.value, value)))

    def _mapping(self, value: Mapping[Any, Any]) -> bytes:
        parts = [part for pair in value.items() for part in map(self.value, pair)]
        return _hash(type(value).__name__, *parts)

    def _weight(self, value: torch.Tensor) -> bytes:
        if value.is_sparse or value.is_quantized or value.is_nested:
            raise Unknown
        told = (value.dtype, tuple(value.shape), value.stride(), value.device, value.requires_grad)
        return _hash("tensor", type(value).__name__, repr(told))

    def _module(self, value: torch.nn.Module) -> bytes:
        parts = [self.value(type(value))]
        for name, attribute in vars(value).items():
            if name in _HOOKS:
                if attribute:
                    raise Unknown
            elif name in {"_parameters", "_buffers"}:
                for key, tensor in attribute.items():
                    parts.append(_hash(name, key, self._held(tensor)))
            else:
                parts.append(_hash(name, self.value(attribute)))
        return _hash("module", *parts)

    def _held(self, tensor: torch.Tensor | None) -> bytes:
        if tensor is None:
            return _hash("none")
        if id(tensor) in self._met:  # tied
            return self.value(tensor)
        self._met[id(tensor)] = tensor, len(self._met)
        return self._weight(tensor)

    def _class(self, value: type) -> bytes:
        if _installed(value.__module__):
            return _hash("library", value.__module__, value.__qualname__)
        return self._once(value, _Walk._class_anew)

    def _class_anew(self, value: type) -> bytes:
        parts = [_hash(value.__qualname__), *map(self.value, value.__bases__)]
        for name, attribute in vars(value).items():
            if name not in _NO_MATTER and not isinstance(attribute, types.GetSetDescriptorType):
                parts.append(_hash(name, self.value(attribute)))
        return _hash("class", *parts)

    def _function(self, value: types.FunctionType) -> bytes:
        if _in_library(value.__code__.co_filename):
            inner = [cell.cell_contents for cell in value.__closure__ or ()]
            name = _hash("library", value.__module__ or "", value.__qualname__)
            return _hash(name, *map(self.value, inner))
        return self._once(value, _Walk._function_anew)

    def _function_anew(self, value: types.FunctionType) -> bytes:
        parts = [self._code(value.__code__, value.__globals__)]
        parts.append(self.value(value.__defaults__))
        parts.append(self.value(value.__kwdefaults__))
        for cell in value.__closure__ or ():
            try:
                parts.append(self.value(cell.cell_contents))
            except ValueError:  # an empty cell
                parts.append(_hash("empty"))
        return _hash("function", value.__qualname__, *parts)

    def _code(self, code: types.CodeType, world: Mapping[str, Any]) -> bytes:
        if not _REACHES_ANYTHING.isdisjoint(code.co_names):
            raise Unknown
        parts = [
            _hash(code.co_code, code.co_linetable, code.co_exceptiontable),
            _hash(code.co_filename, code.co_name, str(code.co_firstlineno), str(code.co_flags)),
            _hash(*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars),
        ]
        for constant in code.co_consts:
            inner = isinstance(constant, types.CodeType)
            parts.append(self._code(constant, world) if inner else self.value(constant))
        for name in code.co_names:
            if name in world:
                parts.append(_hash(name, self._named(world[name], code.co_names)))
            elif name in sys.modules and not _installed(name):
                parts.append(_hash(name, self._named(sys.modules[name], code.co_names)))
        return _hash("code", *parts)

    def _named(self, value: Any, names: tuple[str, ...]) -> bytes:
        """A global that code reads; of a module of the user's, what the code may read in it."""
        if not isinstance(value, types.ModuleType):
            return self.value(value)
        if _installed(value.__name__):
            return _hash("library", value.__name__)
        if "getattr" in names:
            raise Unknown  # of a module of the user's, by a name that is made up
        parts = [_hash("module", value.__name__)]
        for name in names:
            if name in vars(value):
                parts.append(_hash(name, self._named(vars(value)[name], names)))
        return _hash(*parts)

    def _built_in(self, value: Any) -> bytes:
        bound = getattr(value, "__self__", None)
        if bound is not None and not isinstance(bound, types.ModuleType | type):
            raise Unknown
        return _hash("built in", getattr(value, "__module__", None) or "", value.__qualname__)

    def _object(self, value: Any) -> bytes:
        # `copyreg` knows the slots of all bases.
        slots: list[str] = copyreg._slotnames(type(value))  # type: ignore[attr-defined]
        if not hasattr(value, "__dict__") and not slots:
            raise Unknown
        parts = [self.value(type(value))]
        held = {**getattr(value, "__dict__", {})}
        held.update({name: getattr(value, name) for name in slots if hasattr(value, name)})
        parts.append(self._mapping(held))
        return _hash("object", *parts)

    def _once(self, value: Any, describe: Callable[[_Walk, Any], bytes]) -> bytes:
        """The hash of code, which is the same for all modules."""
        if self._known is None:
            return describe(self, value)
        if id(value) not in self._known:
            self._known[id(value)] = value, describe(_Walk(), value)
        return self._known[id(value)][1]


_NO_MATTER = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"),
}
_FOLDERS = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@functools.cache
def _installed(module: str) -> bool:
    """Whether a module is of Python itself or of an installed library."""
    if module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return isinstance(file, str) and _in_library(file)


def _in_library(file: str) -> bool:
    return file.startswith((*_FOLDERS, "<frozen"))


def _hash(*parts: str | bytes) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
