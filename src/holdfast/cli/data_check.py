"""``holdfast data check``: what is wrong with a table, before anything rests on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.data import paths
from holdfast.cli.data_verbs import show_findings
from holdfast.cli.output import emit, json_option

if TYPE_CHECKING:
    from holdfast.core.records import Finding


@click.command()
@paths
@click.option("--schema", "declared", metavar="MODULE:NAME",
              help="Also check against a pandera.polars schema or model (MODULE is a file or an importable name).")  # fmt: skip
@click.option("--label", help="Look for columns that give this column away.")
@click.option("--against", type=click.Path(path_type=Path), help="The training table: tell rows that are in both.")
@click.option(
    "--key", multiple=True, help="With --against: columns whose values must not be in both; then a repeat blocks."
)
@click.option("--ignore", multiple=True, help="Columns that --label and --against pass over.")
@click.option("--strict", is_flag=True, help="Every finding counts, also those that let data in.")
@json_option
def check(
    targets: tuple[Path, ...], declared: str | None, label: str | None, against: Path | None, key: tuple[str, ...],
    ignore: tuple[str, ...], strict: bool, as_json: bool,
) -> int:  # fmt: skip
    """Check tables against their schemas; exit status 1 when a finding blocks. Changes nothing but a first schema file.

    Types, missing values, ranges, keys, duplicates, order and freshness come from the schema beside the table (and from what
    the project's source declares). --label looks for leaks, --against for rows shared with a training table.
    """
    from holdfast.core.errors import BadInput, NotFound
    from holdfast.data import names, suspects

    if key and against is None:
        raise BadInput("--key goes with --against", hint="name the training table: --against PATH")
    chosen = [t.absolute() for t in targets] or _tracked_tables()
    own = _own_schema(declared) if declared else None
    results: dict[str, list[Finding]] = {}
    for place in chosen:
        if not place.exists():
            raise NotFound(f"{place} does not exist", hint="check the path, or get it with `holdfast data pull`")
        files = names.tables_in(place)
        if not files:
            raise BadInput(f"{place} holds no table to check", hint="parquet and CSV files can be checked")
        found = _against_schemas(place, own)
        if label is not None:
            found += suspects.leakage(files, label, ignore=ignore)
        if against is not None:
            beside = names.tables_in(against)
            if not beside:
                raise NotFound(
                    f"{against} holds no table", hint="name the training table: a parquet or CSV file or folder"
                )
            found += suspects.overlap(beside, files, key=key, ignore=ignore)
        results[str(place)] = found
    stopping = sum(f.blocking or strict for findings in results.values() for f in findings)

    def text() -> None:
        for name, findings in results.items():
            plural = "" if len(findings) == 1 else "s"
            click.echo(f"{name}: {f'{len(findings)} finding{plural}' if findings else 'no findings'}")
            show_findings(findings)

    emit(results, as_json=as_json, text=text)
    return 1 if stopping else 0


def _tracked_tables() -> list[Path]:
    """Every tracked path that has a schema."""
    from holdfast.data import repository, schema
    from holdfast.data import status as states

    repo = repository.require(Path.cwd())
    return [out.place for pointer in states.choose(repo) for out in pointer.outs if schema.file_for(out.place).exists()]


def _against_schemas(place: Path, own: Any) -> list[Finding]:
    import time

    from holdfast.cli.data_verbs import source_of
    from holdfast.data import quality, repository, schema

    rules = schema.ensure(place)
    assert rules is not None
    found = quality.check(place, rules, at=time.time_ns() // 1000, survey=True)
    root = repository.project_at(place.parent)
    source = source_of(root, place) if root is not None else None
    for more in (source.schema if source is not None else None, own):
        if more is not None:
            found += quality.check(place, schema.declared(more) if isinstance(more, dict) else more)
    return found


def _own_schema(text: str) -> Any:
    """A schema from the user's own module.

    Raises:
        BadInput: there is no such module or name.
    """
    import importlib
    import importlib.util
    import sys

    from holdfast.core.errors import BadInput

    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise BadInput(f"--schema {text!r} is not MODULE:NAME", hint="write it like --schema schemas.py:Payments")
    sys.path.insert(0, str(Path.cwd()))
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            if spec is None or spec.loader is None or not Path(where).is_file():
                raise BadInput(f"--schema: {where} does not exist", hint="check the path")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  (it is the user's module: anything may come out of it)
        raise BadInput(
            f"--schema: {where} cannot be loaded: {type(error).__name__}: {error}", hint="mend the module"
        ) from None
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        raise BadInput(f"--schema: {where} has no {name!r}", hint="check the name")
    return getattr(module, name)
