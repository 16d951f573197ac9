"""Operators that stay outside of a compiled model, whose values are tensors of numbers."""

from __future__ import annotations

_STRINGS = "strings are no tensors of numbers: handle them before the model, and feed it numbers"
_MAPS = "maps are no tensors: leave them to the code around the model"

_OUTSIDE: dict[tuple[str, str], str] = {
    **dict.fromkeys(
        (
            ("", name)
            for name in ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit")
        ),
        _STRINGS,
    ),
    ("", "ImageDecoder"): "decode images before the model, and feed it their pixels",
    ("ai.onnx.ml", "CategoryMapper"): _STRINGS,
    **dict.fromkeys((("ai.onnx.ml", name) for name in ("CastMap", "DictVectorizer")), _MAPS),
    ("ai.onnx.ml", "ZipMap"): _MAPS + "; skl2onnx writes none with the option zipmap=False",
}


def hint(domain: str, name: str) -> str:
    """What to do instead of an operator; "" where there is nothing special to say."""
    return _OUTSIDE.get((domain, name), "")
