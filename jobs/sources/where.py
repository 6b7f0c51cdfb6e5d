"""`source.where`: a condition over the source's columns, in Python's grammar, parsed and never evaluated as Python.

Names are columns. Comparisons (also chained), `and`, `or`, `not`, `in (...)`, `is None`, arithmetic, text in a column
(`"cat" in text`), `len(text)`, and `column("odd name")`. A comparison with null, or NaN, selects nothing,
as in SQL with null.
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
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide,
}  # fmt: skip
_MOST = 2000
_HINT = "for example: watermark_score < 0.5 and width >= 256 and lang in ('en', 'de')"


@dataclass(frozen=True)
class Condition:
    """A parsed condition, the columns it names, those of them that it does arithmetic with, those that it compares with
    a float, and whether it asks for nulls, of which statistics know other ones: NaN is null here."""

    condition: pc.Expression
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    floats: tuple[str, ...]
    nulls: bool

    def evaluate(self, table: pa.Table) -> pa.ChunkedArray:
        """bool, one for each row. Raises ConfigError when a column is of a type that the condition does not fit."""
        for name in self.numbers:
            if not _is_number(table.schema.field(name).type):
                raise ConfigError(f"source.where: {name} is {table.schema.field(name).type}, no number", _HINT)
        try:
            held = ds.dataset(self._seen(table)).to_table(columns={"held": self.condition}).column("held")
        except pa.ArrowException as exc:
            kinds = ", ".join(f"{field.name} is {field.type}" for field in table.schema)
            raise ConfigError(f"source.where: {str(exc).splitlines()[0]}", f"the columns: {kinds}") from exc
        if not pa.types.is_boolean(held.type):
            raise ConfigError(f"source.where: gives {held.type} for each row, no true or false", _HINT)
        return held.fill_null(False)

    def _seen(self, table: pa.Table) -> pa.Table:
        """NaN as null; whole numbers as doubles where they meet a float, for which Arrow would take float32."""
        for at, field in enumerate(table.schema):
            column = table.column(at)
            if field.name in self.floats and pa.types.is_integer(field.type):
                table = table.set_column(at, field.name, column.cast(pa.float64(), safe=False))
            elif pa.types.is_float32(field.type) or pa.types.is_float64(field.type):
                column = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
                table = table.set_column(at, field, column)
        return table


def parse(text: str) -> Condition:
    """Raises ConfigError that shows where the text stops making sense."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if sum(isinstance(node, ast.Compare) for node in ast.walk(tree)) > _MOST:  # Arrow's recursion ends the process
            raise ConfigError(f"source.where: more than {_MOST:,} comparisons", "column in (...) takes any number")
        reader = _Reader(text.strip())
        condition = _expression(reader.read(tree))
        columns, numbers, floats = map(dict.fromkeys, (reader.columns, reader.numbers, reader.floats))
        return Condition(condition, tuple(columns), tuple(numbers), tuple(floats), reader.nulls)
    except SyntaxError as exc:
        raise ConfigError(f"source.where: {text[:200]!r}: {exc.msg} at letter {exc.offset}", _HINT) from None
    except (RecursionError, MemoryError, ValueError, OverflowError) as exc:
        raise ConfigError(f"source.where: {text[:60]!r}: cannot be read: {exc!s:.80}", _HINT) from None


def _expression(value: Any) -> pc.Expression:
    return value if isinstance(value, pc.Expression) else pc.scalar(value)


def _is_float(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, float)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


class _Reader:
    """Turns the nodes it knows into Arrow expressions, plain numbers and texts; refuses every other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns, self.numbers, self.floats = list[str](), list[str](), list[str]()
        self.nulls = False

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
                return reduce(join, [_expression(self.read(value)) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~_expression(self.read(operand))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.BinOp(left=left, op=by, right=right) if type(by) in _ARITHMETIC:
                # As floats: whole numbers would overflow, and divide to whole numbers.
                return _ARITHMETIC[type(by)](*(self._number(side) for side in (left, right)))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                sides = [left, *rights]
                pairs = [self._pair(a, op, b) for a, op, b in zip(sides, ops, rights, strict=False)]
                return reduce(operator.and_, pairs)
        raise self._refused(node)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        match op, right:
            case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                self.nulls = True
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
        sides = left, right
        self.floats += [a.id for a, b in (sides, sides[::-1]) if isinstance(a, ast.Name) and _is_float(b)]
        return _COMPARE[type(op)](_expression(self.read(left)), _expression(self.read(right)))

    def _number(self, node: ast.expr) -> pc.Expression:
        before = len(self.columns)
        value = _expression(self.read(node))
        if not isinstance(node, ast.Call):  # the length of a text is a number
            self.numbers += self.columns[before:]
        return value.cast(pa.float64(), safe=False)

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
