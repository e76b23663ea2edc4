"""Vectors for numba: eight or sixteen neighbouring lanes as one value.

The recursive filters of the ear model cannot be vectorised along time, but eight bands of the filter bank run through
the same recursion side by side. LLVM does not find that by itself (it unrolls the short loop over the bands first), so
this module gives numba a type that *is* an LLVM vector. `load`, `store` and `splat` move data, `+ - * /` work lane by
lane, and `fma(a, b, c)` is ``a * b + c``. On a machine without AVX-512 LLVM splits each vector by itself.

Kernels only; nothing here is called from Python. `INTERNALS` names the undocumented parts of numba and llvmlite.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, overload, register_model

__all__ = [
    "INTERNALS",
    "exp2",
    "fma",
    "load",
    "load_as_float64",
    "load_columns",
    "log2",
    "maximum",
    "minimum",
    "splat",
    "sqrt",
    "store",
    "store_columns",
    "total",
]

INTERNALS = {
    "numba.core.base:BaseContext.cast": ("builder", "val", "fromty", "toty"),
    "numba.core.base:BaseContext.get_dummy_value": (),
    "numba.core.base:BaseContext.make_array": ("typ",),
    "numba.core.caching:IndexDataCacheFile": ("cache_path", "filename_base", "source_stamp"),
    "numba.core.cgutils:get_or_insert_function": ("module", "fnty", "name"),
    "numba.core.cgutils:unpack_tuple": ("builder", "tup"),
    "numba.core.datamodel.models:PrimitiveModel": ("dmm", "fe_type", "be_type"),
    "llvmlite.ir:IRBuilder.load": ("ptr", "align", "typ"),
    "llvmlite.ir:IRBuilder.shuffle_vector": ("vector1", "vector2", "mask"),
    "llvmlite.ir:IRBuilder.store": ("value", "ptr", "align"),
    "llvmlite.ir:VectorType.as_pointer": (),
}
"""What this file and `core.compiled` call of numba and llvmlite beyond their manuals, with the parameters used. A test
compares it with the versions that are installed. `core.compiled` also sets `_cache._cache_file._source_stamp` of a
compiled function, and `score` reads its `stats.cache_path` and looks there for files called `<module>.<name>-*.nbi`."""

intrinsic: Any = numba_intrinsic  # numba's annotations do not know that the typing context is left out

_LLVM = {types.float64: ir.DoubleType(), types.float32: ir.FloatType()}


class Vector(types.Type):
    """The numba type of `width` lanes of `element`."""

    def __init__(self, element: Any, width: int) -> None:
        self.element = element
        self.width = width
        super().__init__(name=f"Vector({element}, {width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))


def _llvm(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_LLVM[vector.element], vector.width)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _read(builder: Any, pointer: Any, vector: Vector) -> Any:
    pointer = builder.bitcast(pointer, _llvm(vector).as_pointer())
    return builder.load(pointer, align=_aligned_to_element(vector), typ=_llvm(vector))


def _write(builder: Any, lanes: Any, pointer: Any, vector: Vector) -> None:
    pointer = builder.bitcast(pointer, _llvm(vector).as_pointer())
    builder.store(lanes, pointer, align=_aligned_to_element(vector))


def _aligned_to_element(vector: Vector) -> int:
    return vector.element.bitwidth // 8  # numpy aligns arrays to 16 bytes only, and rows start anywhere


def _converted(builder: Any, lanes: Any, source: Vector, target: Vector) -> Any:
    if source.element == target.element:
        return lanes
    widened = target.element.bitwidth > source.element.bitwidth
    return builder.fpext(lanes, _llvm(target)) if widened else builder.fptrunc(lanes, _llvm(target))


def _loading(source: Vector, target: Vector) -> Callable:
    """Return the code generator that reads lanes of an array at an index and converts them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = context.cast(builder, args[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], args[0], where)
        return _converted(builder, _read(builder, pointer, source), source, target)

    return codegen


@intrinsic(prefer_literal=True)
def load(typingctx: Any, array: Any, index: Any, width: Any) -> Any:  # noqa: ARG001
    """Return lanes ``array[index : index + width]`` of a one-dimensional array."""
    vector = Vector(array.dtype, width.literal_value)
    return vector(array, index, width), _loading(vector, vector)


@intrinsic(prefer_literal=True)
def load_as_float64(typingctx: Any, array: Any, index: Any, width: Any) -> Any:  # noqa: ARG001
    """Return lanes of a float32 array, widened to float64."""
    stored, vector = Vector(array.dtype, width.literal_value), Vector(types.float64, width.literal_value)
    return vector(array, index, width), _loading(stored, vector)


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    """Write the lanes to ``array[index : index + width]``, rounded to the array's type."""
    stored = Vector(array.dtype, value.width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = context.cast(builder, args[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], args[0], where)
        _write(builder, _converted(builder, args[2], value, stored), pointer, stored)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx: Any, value: Any, width: Any) -> Any:  # noqa: ARG001
    """Put the same number into every lane."""
    vector = Vector(value, width.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        first = builder.insert_element(
            ir.Constant(_llvm(vector), ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.width), [0] * vector.width)
        return builder.shuffle_vector(first, first, mask)

    return vector(value, width), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose eight vectors of eight: three rounds of perfect shuffles between row k and row k + 4."""
    low = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0, 8, 1, 9, 2, 10, 3, 11])
    high = ir.Constant(ir.VectorType(ir.IntType(32), 8), [4, 12, 5, 13, 6, 14, 7, 15])
    for _ in range(3):
        pairs = [(rows[k], rows[k + 4]) for k in range(4)]
        rows = [builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in (low, high)]
    return rows


@intrinsic
def load_columns(typingctx: Any, array: Any, starts: Any, offset: Any, out: Any, at: Any) -> Any:  # noqa: ARG001
    """Write ``array[starts[k] + offset + t]`` to ``out[at[0] + at[1] * t + k]`` for eight k and eight t.

    `array` and `out` are one-dimensional; float32 is widened if `out` is float64. `at` is a tuple (first, stride).
    """
    source, target = Vector(array.dtype, 8), Vector(out.dtype, 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = context.cast(builder, args[2], signature.args[2], types.intp)
        rows = []
        for k in range(8):
            start = builder.load(_pointer(context, builder, signature.args[1], args[1], ir.Constant(where.type, k)))
            pointer = _pointer(context, builder, signature.args[0], args[0], builder.add(start, where))
            rows.append(_read(builder, pointer, source))
        first, stride = cgutils.unpack_tuple(builder, args[4])
        for t, column in enumerate(_transposed(builder, rows)):
            lanes = _converted(builder, column, source, target)
            index = builder.add(first, builder.mul(stride, ir.Constant(stride.type, t)))
            _write(builder, lanes, _pointer(context, builder, signature.args[3], args[3], index), target)
        return context.get_dummy_value()

    return types.void(array, starts, offset, out, types.UniTuple(types.intp, 2)), codegen


@intrinsic
def store_columns(typingctx: Any, tile: Any, first: Any, array: Any, starts: Any, offset: Any) -> Any:  # noqa: ARG001
    """Write ``tile[first + 8 * t + k]`` to ``array[starts[k] + offset + t]`` for eight k and eight t, rounding."""
    source, target = Vector(tile.dtype, 8), Vector(array.dtype, 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begin = context.cast(builder, args[1], signature.args[1], types.intp)
        where = context.cast(builder, args[4], signature.args[4], types.intp)
        columns = []
        for t in range(8):
            index = builder.add(begin, ir.Constant(begin.type, 8 * t))
            lanes = _read(builder, _pointer(context, builder, signature.args[0], args[0], index), source)
            columns.append(_converted(builder, lanes, source, target))
        for k, row in enumerate(_transposed(builder, columns)):
            start = builder.load(_pointer(context, builder, signature.args[3], args[3], ir.Constant(where.type, k)))
            _write(
                builder, row, _pointer(context, builder, signature.args[2], args[2], builder.add(start, where)), target
            )
        return context.get_dummy_value()

    return types.void(tile, first, array, starts, offset), codegen


def _operator(symbol: Callable, instruction: str) -> None:
    """Make a Python operator apply one LLVM instruction to the lanes of two vectors."""

    @intrinsic
    def lanewise(typingctx: Any, left: Any, right: Any) -> Any:  # noqa: ARG001
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
            return getattr(builder, instruction)(args[0], args[1], flags=("contract",))

        return left(left, right), codegen

    @overload(symbol)
    def typed(left, right):  # type: ignore[no-untyped-def]  # numba compares the names, annotations and all
        if isinstance(left, Vector) and left == right:
            return lambda left, right: lanewise(left, right)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _instruction)


def _call(builder: Any, name: str, vector: Vector, args: Any) -> Any:
    """Call LLVM's function of this name for vectors."""
    kind = ir.FunctionType(_llvm(vector), [_llvm(vector)] * len(args))
    suffix = f"v{vector.width}f{vector.element.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix}"), args)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Compute ``a * b + c`` in each lane, fused where the machine can."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return _call(builder, "fmuladd", a, args)

    return a(a, b, c), codegen


@intrinsic
def sqrt(typingctx: Any, a: Any) -> Any:  # noqa: ARG001
    """Return the square root of each lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return _call(builder, "sqrt", a, args)

    return a(a), codegen


@intrinsic
def total(typingctx: Any, a: Any) -> Any:  # noqa: ARG001
    """Return the sum of the lanes, pairwise."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        value, width = args[0], a.width
        while width > 1:
            width //= 2
            low = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width)))
            high = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width, 2 * width)))
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return a.element(a), codegen


def _choose(comparison: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
            return builder.select(builder.fcmp_ordered(comparison, args[0], args[1]), args[0], args[1])

        return a(a, b), codegen

    return operation


maximum = _choose(">")
minimum = _choose("<")

# log2(1 + u) / u on sqrt(1/2) <= 1 + u < sqrt(2), and 2**u on |u| <= 1/2: interpolation at the Chebyshev nodes, which
# is within 4e-15 and 2e-17 of the function. Lowest power first.
_LOG2 = (
    1.442695040888961, -0.7213475204444744, 0.48089834696635186, -0.36067376022931874, 0.2885390074459846,
    -0.2404491717654101, 0.20609935165660867, -0.1803370456075891, 0.16029707750652847, -0.14426173158514688,
    0.13120223089953834, -0.12041875891128528, 0.11051433445433557, -0.1004465293407121, 0.09704605528122603,
    -0.10715965704794954, 0.10097695102587101, -0.046943209524542756,
)  # fmt: skip
_EXP2 = (
    1.0, 0.6931471805599453, 0.24022650695910072, 0.0555041086648217, 0.009618129107628484, 0.0013333558146390353,
    0.00015403530393362755, 1.5252733856293466e-05, 1.3215486815999978e-06, 1.0178051192960649e-07,
    7.054894386348348e-09, 4.456675341049206e-10, 2.5733568308756892e-11,
)  # fmt: skip
_ROUNDER = 1.5 * 2.0**52  # adding this to a small float64 leaves the nearest integer in the lowest bits
_ROUNDER_BITS = 0x4338000000000000
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


class _Lanes:
    """Constants, casts and Horner's rule for one kind of vector, for the two code generators below."""

    def __init__(self, builder: Any, vector: Vector) -> None:
        self.builder = builder
        self.floats = _llvm(vector)
        self.integers = ir.VectorType(ir.IntType(64), vector.width)
        self.vector = vector

    def number(self, value: float) -> Any:
        return ir.Constant(self.floats, [value] * self.vector.width)

    def integer(self, value: int) -> Any:
        return ir.Constant(self.integers, [value] * self.vector.width)

    def bits(self, value: Any) -> Any:
        return self.builder.bitcast(value, self.integers)

    def from_bits(self, value: Any) -> Any:
        return self.builder.bitcast(value, self.floats)

    def polynomial(self, u: Any, coefficients: tuple[float, ...]) -> Any:
        value = self.number(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = _call(self.builder, "fmuladd", self.vector, [value, u, self.number(coefficient)])
        return value


@intrinsic
def log2(typingctx: Any, a: Any) -> Any:  # noqa: ARG001
    """Return the binary logarithm of each float64 lane, positive and normal, to about 1e-15 of the result plus 1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        lanes = _Lanes(builder, a)
        bits = lanes.bits(args[0])
        exponent = builder.ashr(builder.sub(bits, lanes.integer(_SQRT_HALF_BITS)), lanes.integer(52))
        mantissa = lanes.from_bits(builder.sub(bits, builder.shl(exponent, lanes.integer(52))))
        u = builder.fsub(mantissa, lanes.number(1.0))
        whole = lanes.from_bits(builder.add(exponent, lanes.integer(_ROUNDER_BITS)))
        whole = builder.fsub(whole, lanes.number(_ROUNDER))
        return builder.fadd(whole, builder.fmul(u, lanes.polynomial(u, _LOG2)))

    return a(a), codegen


@intrinsic
def exp2(typingctx: Any, a: Any) -> Any:  # noqa: ARG001
    """Return two to the power of each float64 lane, for -1000 < a < 1000, to about 4e-16 of the result."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        lanes = _Lanes(builder, a)
        rounded = builder.fadd(args[0], lanes.number(_ROUNDER))
        u = builder.fsub(args[0], builder.fsub(rounded, lanes.number(_ROUNDER)))
        power = builder.shl(lanes.bits(rounded), lanes.integer(52))
        return lanes.from_bits(builder.add(lanes.bits(lanes.polynomial(u, _EXP2)), power))

    return a(a), codegen
