"""On-demand features: plain functions of request values and other features, the same source in training and serving.

A function is called with NumPy arrays of one length: float64 with NaN for null, or object with None for text. It is
shipped as source text with what it names (literals, functions beside it, modules of the standard library and NumPy), so that
a replica needs neither the user's module nor its imports.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.core.definitions import OnDemand
from holdfast.core.errors import BadDefinition, BadInput
from holdfast.core.identity import function_source
from holdfast.core.records import Json

_LITERALS = (bool, int, float, str, bytes, type(None))


def compile_source(feature: OnDemand) -> Json:
    """The self-contained form: ``{"name", "arguments", "dtype", "function", "source"}``.

    Raises:
        BadDefinition: the function names something that cannot be shipped; the message says what.
    """
    parts: dict[str, str] = {}
    function = feature.function
    if getattr(function, "__closure__", None) or getattr(function, "__name__", "<lambda>") == "<lambda>":
        raise BadDefinition(
            f"on-demand feature {feature.name!r} is a closure or lambda",
            hint="define it with def at the top of the module",
        )
    _collect(function, feature.name, parts)
    return {
        "name": feature.name, "arguments": list(feature.arguments), "dtype": feature.dtype,
        "function": function.__name__, "source": "\n".join(parts.values()),
    }  # fmt: skip


def _collect(function: Callable[..., Any], feature: str, parts: dict[str, str]) -> None:
    source = function_source(function)
    scope = getattr(function, "__globals__", {})
    name = function.__name__
    if name in parts:
        return
    parts[name] = ""  # marks it while its own needs are collected; helpers may call each other
    for needed in _free_names(source):
        if needed == name or needed in parts:
            continue
        if needed not in scope:
            if hasattr(builtins, needed):
                continue
            raise BadDefinition(f"on-demand feature {feature!r} names {needed!r}, which its module does not define")
        value = scope[needed]
        if isinstance(value, types.ModuleType):
            top = value.__name__.split(".")[0]
            if top != "numpy" and top not in sys.stdlib_module_names:
                raise BadDefinition(
                    f"on-demand feature {feature!r} uses the module {value.__name__!r}",
                    hint="use NumPy and the standard library only",
                )
            parts[needed] = (
                f"import {value.__name__} as {needed}" if "." in value.__name__ or needed != top else f"import {top}"
            )
        elif isinstance(value, OnDemand):
            _collect(value.function, feature, parts)
        elif _is_literal(value):
            parts[needed] = f"{needed} = {_literal(value)}"
        elif isinstance(value, types.FunctionType) and value.__globals__ is scope:
            _collect(value, feature, parts)
        elif callable(value) and getattr(value, "__module__", "").split(".")[0] in ("numpy", *sys.stdlib_module_names):
            parts[needed] = f"from {value.__module__} import {value.__name__} as {needed}"
        else:
            raise BadDefinition(
                f"on-demand feature {feature!r} names {needed!r}, a {type(value).__name__} that cannot travel with the model",
                hint="use literals, functions of the same module, NumPy and the standard library",
            )
    own = parts.pop(name)
    assert own == ""
    parts[name] = source  # after what it needs: defaults are evaluated when it is defined


def _free_names(source: str) -> list[str]:
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    bound = {
        a.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arguments)
        for a in [*node.posonlyargs, *node.args, *node.kwonlyargs]
    }
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            skipped |= {id(n) for n in ast.walk(node.annotation)}
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            skipped |= {id(n) for n in ast.walk(node.returns)}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        if isinstance(node, ast.FunctionDef) and node is not tree:
            bound.add(node.name)
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
    names = [
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in skipped
    ]
    return [n for n in dict.fromkeys(names) if n not in bound]


def _is_literal(value: Any) -> bool:
    if isinstance(value, _LITERALS):
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_literal, value))
    return isinstance(value, dict) and all(_is_literal(k) and _is_literal(v) for k, v in value.items())


def _literal(value: Any) -> str:
    if isinstance(value, float):
        return f"float({str(value)!r})" if value != value or value in (float("inf"), float("-inf")) else repr(value)
    if isinstance(value, frozenset | set):
        inner = ", ".join(sorted(map(_literal, value)))
        return f"frozenset([{inner}])" if isinstance(value, frozenset) else f"set([{inner}])"
    if isinstance(value, tuple):
        return "(" + "".join(_literal(v) + ", " for v in value) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)


class Function:
    """An on-demand feature brought back from its shipped form."""

    def __init__(self, shipped: Mapping[str, Any]) -> None:
        self.name: str = shipped["name"]
        self.arguments: tuple[str, ...] = tuple(shipped["arguments"])
        self.dtype: str = shipped["dtype"]
        scope: dict[str, Any] = {"__name__": f"holdfast.on_demand.{self.name}"}
        flags = __future__.annotations.compiler_flag
        # the text comes out of a package whose hash was verified, or out of the user's own module
        exec(compile(shipped["source"], f"<on-demand feature {self.name}>", "exec", flags, dont_inherit=True), scope)  # noqa: S102
        self._function: Callable[..., Any] = scope[shipped["function"]]

    def __call__(self, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
        """The feature for n rows: float64 with NaN for null, or object with None for text.

        Raises:
            BadInput: the function failed; the message carries its error.
        """
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(self._function(*[columns[a] for a in self.arguments]))
        except Exception as error:
            raise BadInput(
                f"on-demand feature {self.name!r} failed: {type(error).__name__}: {error}",
                hint="mend the function; it gets NumPy arrays",
            ) from error
        if result.shape == ():
            result = np.full(n, result.item())
        if result.shape != (n,):
            raise BadInput(
                f"on-demand feature {self.name!r} returned shape {result.shape} for {n} rows",
                hint="return one value per row",
            )
        if self.dtype == "string":
            return np.array([None if v is None else str(v) for v in result.tolist()], dtype=object)
        if result.dtype == object:
            return np.array([np.nan if v is None else float(v) for v in result.tolist()], dtype=np.float64)
        return result.astype(np.float64)


def to_array(values: Sequence[Any], dtype: str) -> np.ndarray:
    """Plain values (None for null) as on-demand functions get them."""
    if dtype == "string":
        out = np.empty(len(values), dtype=object)
        out[:] = values
        return out
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def to_plain(array: np.ndarray, dtype: str) -> list[Any]:
    """What a function returned as plain values: NaN is null, int64 and bool are rounded to what they are."""
    if dtype == "string":
        out: list[Any] = array.tolist()
        return out
    values = [None if v != v else v for v in array.tolist()]
    if dtype == "int64":
        return [None if v is None or v in (float("inf"), float("-inf")) else int(v) for v in values]
    if dtype == "bool":
        return [None if v is None else bool(v) for v in values]
    return values


def check_same(feature: OnDemand, dtypes: Mapping[str, str], *, seed: int = 0, rows: int = 64) -> None:
    """The shipped function on many rows at once, the same one row at a time, and the user's own: equal on sample rows.

    Raises:
        BadDefinition: they differ, so training and serving would.
    """
    rng = np.random.default_rng(seed)
    shipped = Function(compile_source(feature))
    columns: dict[str, np.ndarray] = {}
    for argument in feature.arguments:
        dtype = dtypes.get(argument, "float64")
        if dtype == "string":
            column = to_array([None if x < 1 else f"v{x}" for x in rng.integers(0, 9, rows)], "string")
        else:
            column = np.where(
                rng.random(rows) < 0.15,
                np.nan,
                np.round(rng.normal(10, 30, rows)) if dtype != "bool" else rng.integers(0, 2, rows),
            )
            if dtype == "timestamp":
                column = np.round(1.7e15 + column * 1e12)
        columns[argument] = column
    together = shipped(columns, rows)
    single = [shipped({k: v[i : i + 1] for k, v in columns.items()}, 1)[0] for i in range(rows)]
    own = Function.__new__(Function)
    own.name, own.arguments, own.dtype, own._function = feature.name, feature.arguments, feature.dtype, feature.function
    again = own(columns, rows)
    for i in range(rows):
        if not (_equal(together[i], single[i]) and _equal(together[i], again[i])):
            given = {k: v[i] for k, v in columns.items()}
            raise BadDefinition(
                f"on-demand feature {feature.name!r} gives {together[i]!r} among many rows and {single[i]!r} alone, for {given}",
                hint="a row's value must depend on that row only, and not on state, chance or time",
            )


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))
