"""A source's raw data as files: what is there, or pulled from SQL and object storage and pinned."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.core.addresses import expanded, hide, public
from holdfast.core.definitions import Source
from holdfast.core.errors import BadData, BadDefinition, BadInput, NotFound, Unavailable
from holdfast.core.identity import to_us
from holdfast.data import gather, hashing, names

BATCH = 50_000
DECIMALS = 12
"""Digits after the point that a NUMERIC column is kept with, where its first rows have no more."""

_STORES = frozenset({"s3", "gs", "gcs", "az", "azure", "abfs", "abfss", "http", "https"})


def files(root: Path, source: Source) -> list[Path]:
    """The table files of a source, in order of name: a file, all tables of a folder, or what a glob pattern matches.

    Raises:
        NotFound: there are none; the message says where was looked.
        BadDefinition: the source is no path, or its path leads out of the project.
    """
    if source.path is None:
        raise BadDefinition(f"source {source.name!r} is a query, not a path", hint="pull it with data.collect.pull")
    place = within(root, source)
    if _is_pattern(source.path):
        own = place_of(root, source)
        found = sorted(
            Path(p) for p in glob.glob(str(place), recursive=True, include_hidden=False) if os.path.isfile(p)
        )
        found = [p for p in found if names.is_table(p) and not p.is_relative_to(own)]
    else:
        if not place.exists():
            raise NotFound(f"source {source.name!r}: {source.path} does not exist in {root}", hint=_hint(place))
        found = names.tables_in(place)
    if not found:
        raise NotFound(f"source {source.name!r}: {source.path} matches no parquet or CSV file", hint=_hint(place))
    return found


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def is_gathered(source: Source) -> bool:
    """Whether the source's rows are brought together by ``pull`` before they are versioned: queries, objects, patterns."""
    return source.path is None or _is_pattern(source.path)


def place_of(root: Path, source: Source) -> Path:
    """The path that is versioned for a source: its own, or the folder ``pull`` fills."""
    if is_gathered(source):
        return Path(os.path.abspath(root)) / "data" / source.name
    return within(root, source)


def within(root: Path, source: Source) -> Path:
    """The place of a source's path.

    Raises:
        BadDefinition: it leads out of the project.
    """
    assert source.path is not None
    base = os.path.normpath(os.path.abspath(root))
    place = os.path.normpath(os.path.join(base, source.path))
    if place != base and not place.startswith(base + os.sep):
        raise BadDefinition(
            f"source {source.name!r}: {source.path} leads out of the project",
            hint="use a path inside the project, or a link to the data there",
        )
    return Path(place)


def _hint(place: Path) -> str:
    pointer = place.with_name(place.name + ".dvc")
    if pointer.exists():
        return "it is tracked: get it with `holdfast data pull`"
    folder = place.parent
    if folder.is_dir():
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:6]
        return f"in {folder.name}/ there is: {', '.join(names)}" if names else f"{folder.name}/ is empty"
    return "check the path; it is relative to the project"


def pull(root: Path, source: Source) -> Path:
    """Bring what a source holds into ``data/<name>/``; the folder, which ``quality.admit`` then versions.

    A SQL query, or one object of a store, becomes one file named by its content; a glob pattern, or objects below a prefix
    (``query`` ends in ``/`` or is a pattern), become files named as they were. A pull that gives the same rows again gives
    the same files, so it makes no new version. What is gone at the source goes here: the dataset is what the source holds
    now, and what it held before stays in the cache once it was admitted.

    Raises:
        BadDefinition: the source is a plain path, or its url is of no known kind.
        NotFound: nothing matches.
        Unavailable: the database or the store cannot be reached.
        BadData: the query gives no rows or columns that cannot be kept.
    """
    if not is_gathered(source):
        raise BadDefinition(f"source {source.name!r} is a path, not a query", hint="read it with data.collect.files")
    folder = place_of(root, source)
    folder.mkdir(parents=True, exist_ok=True)
    if source.url is None:
        return gather.from_pattern(folder, within(root, source), files(root, source))
    url = expanded(source.url, f"source {source.name!r}")
    if url.split("://", 1)[0] in _STORES and (str(source.query).endswith("/") or _is_pattern(str(source.query))):
        kept = Path(root) / ".holdfast" / "pulls" / f"{source.name}.json"
        return gather.from_store(
            folder, source, str(source.query), lambda: _store(url), kept, lambda e: _first_line(e, source, url)
        )
    temporary = folder / f".pull-{os.getpid()}.tmp"
    try:
        if url.split("://", 1)[0] in _STORES:
            suffix = _from_store(source, url, temporary)
        else:
            suffix = _from_sql(source, url, root, temporary)
        name = f"{hashing.digest(temporary).sha256[:16]}{suffix}"
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        if not (folder / name).exists():  # the same answer stays the same file, its time included
            temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    for old in names.tables_in(folder):
        if old.name != name:
            old.unlink()
    return folder


def _from_sql(source: Source, url: str, root: Path, target: Path) -> str:
    """Stream the query's rows to parquet, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import sqlalchemy as sa

    writer: pq.ParquetWriter | None = None
    held: list[pa.Table] = []
    database = _driver(url, root)
    if database.startswith("sqlite:///") and database[10:] != ":memory:" and not Path(database[10:]).is_file():
        raise NotFound(f"source {source.name!r}: there is no database file {database[10:]}", hint="check its url")
    try:
        engine = sa.create_engine(database)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError) as error:
        hint = "a SQLAlchemy URL is expected, and its driver must be installed"
        raise BadDefinition(
            f"source {source.name!r}: its url cannot be used: {_first_line(error, source, url)}", hint=hint
        ) from None
    try:
        # Without parameters the query goes as it is written: LIKE '%x%' is no placeholder.
        options = {"stream_results": True, "no_parameters": True, **_read_only(engine.name)}
        with engine.connect().execution_options(**options) as connection:
            if engine.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            result = connection.exec_driver_sql(str(source.query))
            if not result.returns_rows:
                raise BadData(f"source {source.name!r}: the query gives no rows", hint="write a SELECT")
            columns = list(result.keys())
            schema: pa.Schema | None = None
            twice = sorted({c for c in columns if columns.count(c) > 1})
            if twice:
                raise BadData(
                    f"source {source.name!r}: the query gives {twice[0]!r} twice",
                    hint="name its columns apart: SELECT a.x AS …",
                )
            declared = _declared(source)
            while rows := result.fetchmany(BATCH):
                table = pa.table(
                    {
                        name: _kept(source, url, name, partial(_column, [row[at] for row in rows], declared.get(name)))
                        for at, name in enumerate(columns)
                    }
                )
                if schema is None:
                    # A column that has been null so far has no type yet: wait for the batch that shows one.
                    held.append(table)
                    merged = pa.unify_schemas([t.schema for t in held], promote_options="permissive")
                    if any(pa.types.is_null(f.type) for f in merged) and len(held) < 20:
                        continue
                    schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in merged])
                    writer = pq.ParquetWriter(target, schema)
                    for part in held:
                        writer.write_table(_cast(source, url, part, schema))
                    held = []
                elif writer is not None:
                    writer.write_table(_cast(source, url, table, schema))
            if held:
                merged = pa.unify_schemas([t.schema for t in held], promote_options="permissive")
                schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in merged])
                writer = pq.ParquetWriter(target, schema)
                for part in held:
                    writer.write_table(_cast(source, url, part, schema))
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise Unavailable(
            f"source {source.name!r}: {_first_line(error, source, url)}",
            hint="check that the database is up, its url, and the query",
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise BadData(
            f"source {source.name!r}: the query fails: {_first_line(error, source, url)}", hint="mend the query"
        ) from None
    except pa.ArrowException as error:
        raise BadData(
            f"source {source.name!r}: a column cannot be kept: {_first_line(error, source, url)}",
            hint="cast it in the query",
        ) from None
    finally:
        if writer is not None:
            writer.close()
        engine.dispose()
    if writer is None:
        raise BadData(f"source {source.name!r}: the query gives no rows", hint="check the query")
    return ".parquet"


def _kept(source: Source, url: str, name: str, make: Callable[[], Any]) -> Any:
    """A column of a pull.

    Raises:
        BadData: its values are of no one type that can be kept; the message names it.
    """
    import pyarrow as pa

    try:
        return make()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise BadData(
            f"source {source.name!r}: column {name!r} cannot be kept: {_first_line(error, source, url)}",
            hint="cast it in the query",
        ) from None


def _cast(source: Source, url: str, table: Any, schema: Any) -> Any:
    import pyarrow as pa

    columns = [_kept(source, url, f.name, partial(table[f.name].cast, f.type)) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _read_only(dialect: str) -> dict[str, Any]:
    """A source's query reads; a database that can be told so is told."""
    return {"postgresql_readonly": True} if dialect == "postgresql" else {}


def _declared(source: Source) -> dict[str, Any]:
    """What the source's schema says of its columns, as Arrow types."""
    import pyarrow as pa

    kinds = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    found: dict[str, Any] = {n: kinds[t] for n, t in (source.spec()["schema"] or {}).items() if t in kinds}
    instants = [n for n, t in (source.spec()["schema"] or {}).items() if t == "timestamp"]
    for name in (source.timestamp, source.arrival, *instants):
        if name is not None and name not in found:
            found[name] = pa.timestamp("us", tz="UTC")
    return found


def _column(values: list[Any], declared: Any) -> Any:
    """One batch of a column: of its declared type where that fits without loss, else of what the values are. Decimals get
    one type for all batches: their digits differ from batch to batch."""
    import pyarrow as pa

    array = pa.array(values)
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.decimal128(38, max(array.type.scale, DECIMALS)))
    if declared is not None and array.type != declared:
        try:
            if pa.types.is_timestamp(declared) and pa.types.is_string(
                array.type
            ):  # databases without a type for instants
                return pa.array([None if v is None else to_us(v) for v in values], pa.int64()).cast(declared)
            if pa.types.is_timestamp(declared) and pa.types.is_integer(array.type):
                return array  # microseconds as they are
            return array.cast(declared)
        except BadInput:
            return array
        except pa.ArrowException:
            return array  # admission says what does not fit, by column and row
    return array


def _driver(url: str, root: Path) -> str:
    """PostgreSQL's plain scheme means the driver Holdfast installs; a relative SQLite path starts at the project."""
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////") and url[10:] not in ("", ":memory:"):
        return f"sqlite:///{os.path.normpath(os.path.join(os.path.abspath(root), url[10:]))}"
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url[len(scheme) :]
    return url


def _first_line(error: Exception, source: Source, url: str) -> str:
    """What went wrong, without what is secret in the URL."""
    cause = getattr(error, "orig", None) or error
    lines = hide(str(cause), str(source.url), url).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _store(url: str) -> Any:
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", url).startswith("http://")
    return from_url(url, client_options={"timeout": "120s", "allow_http": plain})


def _from_store(source: Source, url: str, target: Path) -> str:
    """One object of S3, Google Cloud Storage, Azure or a web server; ``query`` is its key below the url."""
    import obstore
    from obstore import exceptions

    try:
        store = _store(url)
        key = str(source.query)
        with target.open("wb") as f:
            for piece in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                f.write(bytes(piece))
    except (exceptions.NotFoundError, FileNotFoundError):
        raise NotFound(
            f"source {source.name!r}: {source.query} is not below {public(str(source.url))}",
            hint="check url and query; query is the object's key",
        ) from None
    except (exceptions.BaseError, ValueError) as error:
        raise Unavailable(
            f"source {source.name!r}: {_first_line(error, source, url)}", hint="check the url and the credentials"
        ) from None
    suffixes = "".join(Path(key).suffixes[-2:]).lower()
    for known in (*names.PARQUET, *names.CSV):
        if suffixes.endswith(known):
            return known
    raise BadDefinition(
        f"source {source.name!r}: {key} is neither parquet nor CSV", hint="name an object that ends in .parquet or .csv"
    )
