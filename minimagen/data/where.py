"""A condition on the columns of data, such as ``width >= 64 and style == 'noto'``.

It is read as Python's grammar has it and computed by Arrow; nothing of it is ever run.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from minimagen.data.dataset import BadSampleError
from minimagen.data.images.decoding import upright_size
from minimagen.errors import UserError, did_you_mean
from minimagen.storage.image_formats import DAMAGE

SIDES = ("width", "height")  # of the image, in pixels, where there are no such columns
EXAMPLE = "for example \"width >= 64 and style in ['noto', 'fluent3d']\""
COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Eq: pc.equal, ast.NotEq: pc.not_equal, ast.Lt: pc.less, ast.LtE: pc.less_equal,
    ast.Gt: pc.greater, ast.GtE: pc.greater_equal,
}  # fmt: skip
ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply,
    ast.Div: lambda a, b: pc.divide_checked(pc.multiply(a, 1.0), b),  # its own cuts whole numbers
}  # fmt: skip

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Where:
    """Which rows of the data are used.

    Columns, numbers, texts and lists of them may be compared (== != < <= > >= in, not in), joined
    by and, or, not, and calculated with (+ - * /). ``'cat' in text`` looks into a text. Where a
    value is missing, the row is left out.

    Raises:
        UserError: the text is no such condition.
    """

    text: str

    def __post_init__(self) -> None:
        for node in ast.walk(self._tree):
            if not isinstance(node, ALLOWED):
                what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
                raise self._error(f"{what!r} is not part of a condition on columns")
        if not self.names:
            raise self._error("it names no column")
        if not isinstance(self._tree, ast.Compare | ast.BoolOp | ast.UnaryOp):
            raise self._error("it compares nothing")

    @cached_property
    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error(f"it cannot be read ({getattr(error, 'msg', error)})") from None

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that it names."""
        return frozenset(n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name))

    def check(self, columns: Sequence[str], which: str = "") -> None:
        """Raise a UserError unless every name is a column, or a side of the image.

        ``which`` columns they are, where there are more.
        """
        for name in sorted(self.names - {*columns, *SIDES}):
            known = list(dict.fromkeys([*columns, *SIDES]))
            hint = did_you_mean(name, known)
            among = f"those {which}, {', '.join(known)}" if which else ", ".join(known)
            raise self._error(f"there is no column {name!r} among {among}{hint}")

    def kept(
        self, rows: Sequence[Columns], images: Iterable[Path | str | bytes | None]
    ) -> list[bool]:
        """Return which rows fit; an image is a file or its content, None where there is none."""
        columns = {name: [row.get(name) for row in rows] for name in self.names}
        missing = [name for name in SIDES if name in columns and not any(name in r for r in rows)]
        if missing:
            sizes = list(map(_size, images))
            columns |= {
                name: [size and size[SIDES.index(name)] for size in sizes] for name in missing
            }
        try:
            arrays = {name: pa.array(values) for name, values in columns.items()}
            found = self._value(self._tree, arrays)
            fits = pc.fill_null(found, False)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            why = " ".join(str(error).split())[:200]
            raise self._error(f"it does not fit the columns' values ({why})") from error
        return [bool(fits.as_py())] * len(rows) if isinstance(fits, pa.Scalar) else fits.to_pylist()

    def _value(self, node: ast.expr, columns: Mapping[str, pa.Array]) -> Any:
        """Compute one part of the condition: an array of a value per row, or one for all."""
        match node:
            case ast.Name(id=name):
                return columns[name]
            case ast.Constant(value=value):
                return pa.scalar(value)
            case ast.BoolOp(op=joins, values=parts):
                join = pc.and_kleene if isinstance(joins, ast.And) else pc.or_kleene
                first, *others = (_flags(self._value(part, columns)) for part in parts)
                for other in others:
                    first = join(first, other)
                return first
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return pc.invert(_flags(self._value(part, columns)))
            case ast.UnaryOp(operand=part):
                return pc.negate(_alike(self._value(part, columns), pa.scalar(0.0))[0])
            case ast.BinOp(left=left, op=calculates, right=right):
                pair = self._value(left, columns), self._value(right, columns)
                numbers = map(_as_numbers, pair) if _are_texts(*pair) else _alike(*pair)
                return ARITHMETIC[type(calculates)](*numbers)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                found = [
                    self._compared(op, *pair, columns)
                    for op, pair in zip(ops, zip(sides, others, strict=False), strict=True)
                ]
                result = found[0]
                for each in found[1:]:
                    result = pc.and_kleene(result, each)
                return result
        raise self._error(f"{ast.unparse(node)!r} has no value")

    def _compared(
        self, op: ast.cmpop, left: ast.expr, right: ast.expr, columns: Mapping[str, pa.Array]
    ) -> Any:
        if not isinstance(op, ast.In | ast.NotIn):
            pair = self._value(left, columns), self._value(right, columns)
            compare = COMPARISONS[type(op)]
            if not (isinstance(op, ORDERS) and _are_texts(*pair)):
                return compare(*_alike(*pair))
            numbers = [_as_numbers(side) for side in pair]  # two columns of a csv
            both = pc.and_(*map(pc.is_valid, numbers))
            return pc.if_else(both, compare(*numbers), compare(*pair))
        if isinstance(right, ast.List | ast.Tuple):
            try:
                values = [ast.literal_eval(each) for each in right.elts]
            except ValueError:
                raise self._error("a list holds numbers or texts, no names") from None
            wanted = pa.array(values)
            searched, wanted = _alike(self._value(left, columns), wanted)
            found = pc.is_in(searched, value_set=wanted)
        elif isinstance(left, ast.Constant) and isinstance(left.value, str):
            searched = self._value(right, columns)
            searched = _of_type(searched, pa.string())
            found = pc.match_substring(searched, left.value)
        else:
            raise self._error("'in' needs a list of values, or a text on its left")
        found = pc.if_else(pc.is_null(searched), None, found)  # a missing value fits nothing
        return pc.invert(found) if isinstance(op, ast.NotIn) else found

    def _error(self, why: str) -> UserError:
        return UserError(f"`where` is {self.text!r}: {why}; give a condition, {EXAMPLE}")


ALLOWED = (
    ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, *ARITHMETIC,
    ast.Compare, *COMPARISONS, ast.In, ast.NotIn,
    ast.Name, ast.Constant, ast.List, ast.Tuple, ast.Load,
)  # fmt: skip


def _is_missing(values: Any) -> bool:
    """Return whether there is no value in any of these rows: then they have no type."""
    return bool(pa.types.is_null(values.type))


def _flags(values: Any) -> Any:
    """Return values that are true or false, or missing."""
    return _of_type(values, pa.bool_())


def _of_type(values: Any, type_: pa.DataType) -> Any:
    """Return values; where all are missing, missing ones of that type."""
    if not _is_missing(values):
        return values
    one = isinstance(values, pa.Scalar)
    return pa.scalar(None, type_) if one else pa.nulls(len(values), type_)


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both sides as numbers where one is a number and the other its text, as in a csv.

    What is missing everywhere gets the type of the other side.
    """
    left = _of_type(left, pa.float64() if _is_missing(right) else right.type)
    right = _of_type(right, left.type)
    texts = [pa.types.is_string(side.type) for side in (left, right)]
    numbers = [pa.types.is_integer(s.type) or pa.types.is_floating(s.type) for s in (left, right)]
    if texts[0] and numbers[1]:
        return _number(left), right
    if texts[1] and numbers[0]:
        return left, _number(right)
    return left, right


def _are_texts(*sides: Any) -> bool:
    return all(pa.types.is_string(side.type) for side in sides)


def _as_numbers(texts: Any) -> Any:
    """Return texts as float64, missing where one is no number, whatever the others are."""

    def number(text: str | None) -> float | None:
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    if isinstance(texts, pa.Scalar):
        return pa.scalar(number(texts.as_py()), pa.float64())
    return pa.array(map(number, texts.to_pylist()), pa.float64())


def _number(text: Any) -> Any:
    """Return the numbers that texts are; an empty cell is missing."""
    present = pc.if_else(pc.equal(text, ""), None, text)
    return pc.call_function("cast", [present], pc.CastOptions.safe(pa.float64()))


def _size(image: Path | str | bytes | None) -> tuple[int, int] | None:
    """Return (width, height) from an image's header, None where it cannot be read."""
    if image is None:
        return None
    try:
        height, width = upright_size(Path(image) if isinstance(image, str) else image)
    except (*DAMAGE, BadSampleError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return width, height
