"""What a view computes, compiled once for both sides: the plan, and the meaning of each aggregate.

A window is (t − w, t]. Aggregates see the non-null values (NaN is null) of their column, of the rows their ``where`` is
true for. Of an empty window, count and distinct are 0 and everything else is null. ``std`` is the sample standard deviation,
null below two values. Sums of integers are exact before they are rounded once to float64. ``last`` and ``first`` go by
(event time, arrival, sequence), among full ties by value. An event is its content: the same row twice is one event, known
since its earliest arrival.
"""

from __future__ import annotations

from holdfast.core.definitions import Aggregation, FeatureView, Field
from holdfast.core.errors import BadDefinition
from holdfast.core.records import Json

NUMERIC_ONLY = ("sum", "mean", "std")
COUNTS = ("count", "distinct", "approx_distinct")


def view_plan(view: FeatureView) -> Json:
    """Everything lookups, pushes and training sets need of a view, as plain JSON.

    Raises:
        BadDefinition: an aggregate does not fit its column's declared type.
    """
    schema = view.source.spec()["schema"] or {}
    fields: list[Json] = []
    values: list[Json] = []
    aggregates: list[Json] = []
    columns: list[list[str]] = []
    for feature in view.features:
        if isinstance(feature, Field):
            name = f"{view.name}__{feature.name}"
            fields.append({"column": name, "dtype": feature.dtype, "source_column": feature.source_column})
            columns.append([name, feature.dtype])
            continue
        assert isinstance(feature, Aggregation)
        dtype = schema.get(feature.column)
        index = next(
            (i for i, v in enumerate(values) if v["column"] == feature.column and v["where"] == feature.where), None
        )
        if index is None:
            index = len(values)
            values.append({"column": feature.column, "where": feature.where, "dtype": dtype, "distinct": False})
        for short, function, window in feature.features():
            if dtype in ("string", "timestamp") and function in NUMERIC_ONLY:
                raise BadDefinition(
                    f"{view.name!r}: {function} of {feature.column!r}, which is a {dtype}",
                    hint="use count, distinct, min, max, first or last",
                )
            if function in ("distinct", "approx_distinct"):
                values[index]["distinct"] = True
            aggregates.append(
                {"column": f"{view.name}__{short}", "value": index, "function": function, "window": window}
            )
            columns.append([f"{view.name}__{short}", aggregate_dtype(function, dtype or "float64")])
    source = view.source
    return {
        "name": view.name, "version": view.version, "keys": list(view.join_keys), "ttl": view.ttl,
        "key_types": {k: schema[k] for k in view.join_keys if k in schema and k not in view.keys}, "source": source.name,
        **({"key_sql": dict(view.keys)} if view.keys else {}),
        "timestamp": source.timestamp, "arrival": source.arrival, "sequence": source.sequence, "schema": schema,
        "fields": fields, "values": values, "aggregates": aggregates, "columns": columns,
        "retention": max((int(a["window"]) for a in aggregates), default=0),
    }  # fmt: skip


def aggregate_dtype(function: str, value_dtype: str) -> str:
    """The type of an aggregate of a column of this type."""
    if function in COUNTS:
        return "int64"
    if function in NUMERIC_ONLY:
        return "float64"
    return {"bool": "int64", "timestamp": "int64"}.get(value_dtype, value_dtype)


def empty_value(function: str) -> int | None:
    """What an aggregate is over nothing."""
    return 0 if function in COUNTS else None
