"""The functions of the standard by family; `array_api` is made of what is exported here."""

# ruff: noqa: I001
# fmt: off
from nexus_compiler.frontend.tracing.functions.creation import (
    arange, asarray, empty, empty_like, eye, from_dlpack, full, full_like, linspace, meshgrid,
    ones, ones_like, tril, triu, zeros, zeros_like,
)
from nexus_compiler.frontend.tracing.functions.elementwise import (
    abs, acos, acosh, add, asin, asinh, atan, atan2, atanh, bitwise_and, bitwise_invert,
    bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, ceil, clip, conj,
    copysign, cos, cosh, divide, equal, exp, expm1, floor, floor_divide, greater, greater_equal,
    hypot, imag, isfinite, isinf, isnan, less, less_equal, log, log1p, log2, log10, logaddexp,
    logical_and, logical_not, logical_or, logical_xor, maximum, minimum, multiply, negative,
    not_equal, positive, pow, real, reciprocal, remainder, round, sign, signbit, sin, sinh,
    sqrt, square, subtract, tan, tanh, trunc, where,
)
from nexus_compiler.frontend.tracing.functions.indexing import (
    getitem, take, take_along_axis,
)
from nexus_compiler.frontend.tracing.functions.linear import (
    matmul, matrix_transpose, tensordot, vecdot,
)
from nexus_compiler.frontend.tracing.functions.manipulation import (
    broadcast_arrays, broadcast_to, concat, expand_dims, flip, moveaxis, permute_dims, repeat,
    reshape, roll, squeeze, stack, tile, unstack,
)
from nexus_compiler.frontend.tracing.functions.reductions import (
    all, any, argmax, argmin, argsort, count_nonzero, cumulative_prod, cumulative_sum, diff,
    max, mean, min, prod, searchsorted, sort, std, sum, var,
)
from nexus_compiler.frontend.tracing.functions.sets import (
    nextafter, nonzero, unique_all, unique_counts, unique_inverse, unique_values,
)
from nexus_compiler.frontend.tracing.functions.setting import (
    setitem,
)
from nexus_compiler.frontend.tracing.functions.types import (
    __array_namespace_info__, astype, bool, can_cast, e, finfo, float32, float64, iinfo, inf,
    int8, int16, int32, int64, isdtype, nan, newaxis, pi, result_type, uint8, uint16, uint32,
    uint64,
)

__all__ = [  # noqa: RUF022
    "__array_namespace_info__", "abs", "acos", "acosh", "add", "all", "any", "arange", "argmax",
    "argmin", "argsort", "asarray", "asin", "asinh", "astype", "atan", "atan2", "atanh",
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "bool", "broadcast_arrays", "broadcast_to", "can_cast", "ceil", "clip",
    "concat", "conj", "copysign", "cos", "cosh", "count_nonzero", "cumulative_prod",
    "cumulative_sum", "diff", "divide", "e", "empty", "empty_like", "equal", "exp",
    "expand_dims", "expm1", "eye", "finfo", "flip", "float32", "float64", "floor",
    "floor_divide", "from_dlpack", "full", "full_like", "getitem", "greater", "greater_equal",
    "hypot", "iinfo", "imag", "inf", "int16", "int32", "int64", "int8", "isdtype", "isfinite",
    "isinf", "isnan", "less", "less_equal", "linspace", "log", "log10", "log1p", "log2",
    "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "matmul",
    "matrix_transpose", "max", "maximum", "mean", "meshgrid", "min", "minimum", "moveaxis",
    "multiply", "nan", "negative", "newaxis", "nextafter", "nonzero", "not_equal", "ones",
    "ones_like", "permute_dims", "pi", "positive", "pow", "prod", "real", "reciprocal",
    "remainder", "repeat", "reshape", "result_type", "roll", "round", "searchsorted", "setitem",
    "sign", "signbit", "sin", "sinh", "sort", "sqrt", "square", "squeeze", "stack", "std",
    "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "tril",
    "triu", "trunc", "uint16", "uint32", "uint64", "uint8", "unique_all", "unique_counts",
    "unique_inverse", "unique_values", "unstack", "var", "vecdot", "where", "zeros",
    "zeros_like",
]
