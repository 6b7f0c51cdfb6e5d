"""`source.where`: a condition over the source's columns, in Python's grammar, parsed and never evaluated as Python.

Names are columns. Comparisons (also chained), `and`, `or`, `not`, `in (...)`, `is None`, arithmetic, text in a column
(`"cat" in text`), `len(text)`, and `column("odd name")`. A comparison with null selects nothing, as in SQL.
"""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.errors import ConfigError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_HINT = "for example: watermark_score < 0.5 and width >= 256 and lang in ('en', 'de')"


@dataclass(frozen=True)
class Where:
    """A parsed condition, and the columns it names."""

    condition: pc.Expression
    columns: tuple[str, ...]

    def holds(self, table: pa.Table) -> pa.ChunkedArray:
        """bool, one for each row. Raises ConfigError when a column is of a type that the condition does not fit."""
        try:
            held = ds.dataset(table).to_table(columns={"held": self.condition}).column("held")
        except pa.ArrowException as exc:
            kinds = ", ".join(f"{field.name} is {field.type}" for field in table.schema)
            raise ConfigError(f"source.where: {str(exc).splitlines()[0]}", f"the columns: {kinds}") from exc
        if not pa.types.is_boolean(held.type):
            raise ConfigError(f"source.where: gives {held.type} for each row, no true or false", _HINT)
        return held.fill_null(False)


def parse(text: str) -> Where:
    """Raises ConfigError that shows where the text stops making sense."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        reader = _Reader(text.strip())
        return Where(_expression(reader.read(tree)), tuple(dict.fromkeys(reader.columns)))
    except SyntaxError as exc:
        raise ConfigError(f"source.where: {text[:200]!r}: {exc.msg} at letter {exc.offset}", _HINT) from None
    except (RecursionError, MemoryError, ValueError) as exc:
        raise ConfigError(f"source.where: {text[:60]!r}: cannot be read: {exc!s:.80}", _HINT) from None


def _expression(value: Any) -> pc.Expression:
    return value if isinstance(value, pc.Expression) else pc.scalar(value)


class _Reader:
    """Turns the nodes it knows into Arrow expressions, plain numbers and texts; refuses every other."""

    def __init__(self, text: str) -> None:
        self.text, self.columns = text, list[str]()

    def read(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name(id=name):
                return self._column(name)
            case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[]):
                return self._column(name)
            case ast.Call(func=ast.Name(id="len"), args=[text], keywords=[]):
                return pc.utf8_length(_expression(self.read(text)))
            case ast.BoolOp(op=op, values=values):
                join = operator.and_ if isinstance(op, ast.And) else operator.or_
                return reduce(join, (_expression(self.read(value)) for value in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~_expression(self.read(operand))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.BinOp(left=left, op=by, right=right) if type(by) in _ARITHMETIC:
                # As floats: whole numbers would overflow, and divide to whole numbers.
                sides = [_expression(self.read(side)).cast(pa.float64()) for side in (left, right)]
                return _ARITHMETIC[type(by)](*sides)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                sides = [left, *rights]
                pairs = [self._pair(a, op, b) for a, op, b in zip(sides, ops, rights, strict=False)]
                return reduce(operator.and_, pairs)
        raise self._refused(node)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        match op, right:
            case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                null = _expression(self.read(left)).is_null()
                return null if isinstance(op, ast.Is) else ~null
            case ((ast.In() | ast.NotIn()), (ast.Tuple(elts=items) | ast.List(elts=items))):
                value = _expression(self.read(left))
                among = value.isin([self._plain(item) for item in items])
                return (among if isinstance(op, ast.In) else ~among) & value.is_valid()
            case ((ast.In() | ast.NotIn()), _):
                if not (isinstance(left, ast.Constant) and isinstance(left.value, str)):
                    raise self._refused(left)
                found = pc.match_substring(_expression(self.read(right)), left.value)
                return found if isinstance(op, ast.In) else ~found
        if type(op) not in _COMPARE:
            raise self._refused(right)
        return _COMPARE[type(op)](_expression(self.read(left)), _expression(self.read(right)))

    def _column(self, name: str) -> pc.Expression:
        self.columns.append(name)
        return pc.field(name)

    def _plain(self, node: ast.expr) -> Any:
        value = self.read(node)
        if isinstance(value, pc.Expression):
            raise self._refused(node)
        return value

    def _refused(self, node: ast.expr) -> ConfigError:
        part = ast.get_source_segment(self.text, node) or self.text
        return ConfigError(f"source.where: {self.text!r}: {part!r} is not part of a condition", _HINT)
