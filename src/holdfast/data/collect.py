"""A source's raw data as files: what is there, or pulled from SQL and object storage and pinned."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from holdfast.core.definitions import Source
from holdfast.core.errors import BadData, BadDefinition, NotFound, Unavailable
from holdfast.data import hashing, names

BATCH = 50_000
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
    if any(char in source.path for char in "*?["):
        found = sorted(
            Path(p) for p in glob.glob(str(place), recursive=True, include_hidden=False) if os.path.isfile(p)
        )
        found = [p for p in found if names.is_table(p)]
    else:
        if not place.exists():
            raise NotFound(f"source {source.name!r}: {source.path} does not exist in {root}", hint=_hint(place))
        found = names.tables_in(place)
    if not found:
        raise NotFound(f"source {source.name!r}: {source.path} matches no parquet or CSV file", hint=_hint(place))
    return found


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
    """Bring what a ``url`` source holds into ``data/<name>/`` as one parquet file named by its content; the folder.

    A pull that gives the same rows again gives the same file, so it makes no new version. The file replaces the pull before
    it: the dataset is what the query answers now, and older answers stay in the cache once they were admitted.

    Raises:
        BadDefinition: the source is a path, or its url is of no known kind.
        Unavailable: the database or the store cannot be reached.
        BadData: the query gives no rows or columns that cannot be kept.
    """
    if source.url is None:
        raise BadDefinition(f"source {source.name!r} is a path, not a query", hint="read it with data.collect.files")
    folder = Path(root) / "data" / source.name
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".pull-{os.getpid()}.tmp"
    try:
        if source.url.split("://", 1)[0] in _STORES:
            suffix = _from_store(source, temporary)
        else:
            suffix = _from_sql(source, temporary)
        name = f"{hashing.digest(temporary).sha256[:16]}{suffix}"
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    for old in names.tables_in(folder):
        if old.name != name:
            old.unlink()
    return folder


def _from_sql(source: Source, target: Path) -> str:
    """Stream the query's rows to parquet, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import sqlalchemy as sa

    writer: pq.ParquetWriter | None = None
    held: list[pa.Table] = []
    try:
        engine = sa.create_engine(_driver(str(source.url)))
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        hint = "a SQLAlchemy URL is expected, and its driver must be installed"
        raise BadDefinition(
            f"source {source.name!r}: its url cannot be used: {_first_line(error)}", hint=hint
        ) from None
    try:
        with engine.connect().execution_options(stream_results=True) as connection:
            result = connection.execute(sa.text(str(source.query)))
            columns = list(result.keys())
            schema: pa.Schema | None = None
            while rows := result.fetchmany(BATCH):
                table = pa.table({name: pa.array([row[at] for row in rows]) for at, name in enumerate(columns)})
                if schema is None:
                    # A column that has been null so far has no type yet: wait for the batch that shows one.
                    held.append(table)
                    merged = pa.unify_schemas([t.schema for t in held], promote_options="permissive")
                    if any(pa.types.is_null(f.type) for f in merged) and len(held) < 20:
                        continue
                    schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in merged])
                    writer = pq.ParquetWriter(target, schema)
                    for part in held:
                        writer.write_table(part.cast(schema))
                    held = []
                elif writer is not None:
                    writer.write_table(table.cast(schema))
            if held:
                merged = pa.unify_schemas([t.schema for t in held], promote_options="permissive")
                schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in merged])
                writer = pq.ParquetWriter(target, schema)
                for part in held:
                    writer.write_table(part.cast(schema))
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise Unavailable(
            f"source {source.name!r}: {_first_line(error)}",
            hint="check that the database is up, its url, and the query",
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise BadData(f"source {source.name!r}: the query fails: {_first_line(error)}", hint="mend the query") from None
    except pa.ArrowException as error:
        raise BadData(
            f"source {source.name!r}: a column cannot be kept: {_first_line(error)}", hint="cast it in the query"
        ) from None
    finally:
        if writer is not None:
            writer.close()
        engine.dispose()
    if writer is None:
        raise BadData(f"source {source.name!r}: the query gives no rows", hint="check the query")
    return ".parquet"


def _driver(url: str) -> str:
    """PostgreSQL's plain scheme means the driver Holdfast installs."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url[len(scheme) :]
    return url


def _first_line(error: Exception) -> str:
    """What went wrong, without the URL, which may hold a password."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0][:200] if str(cause).strip() else type(error).__name__


def _from_store(source: Source, target: Path) -> str:
    """One object of S3, Google Cloud Storage, Azure or a web server; ``query`` is its key below the url."""
    import obstore
    from obstore import exceptions
    from obstore.store import from_url

    try:
        store = from_url(
            str(source.url),
            client_options={
                "timeout": "120s",
                "allow_http": str(os.environ.get("AWS_ENDPOINT_URL", source.url)).startswith("http://"),
            },
        )
        key = str(source.query)
        with target.open("wb") as f:
            for piece in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                f.write(bytes(piece))
    except (exceptions.NotFoundError, FileNotFoundError):
        raise NotFound(
            f"source {source.name!r}: {source.query} is not below {source.url}",
            hint="check url and query; query is the object's key",
        ) from None
    except (exceptions.BaseError, ValueError) as error:
        raise Unavailable(
            f"source {source.name!r}: {_first_line(error)}", hint="check the url and the credentials"
        ) from None
    suffixes = "".join(Path(key).suffixes[-2:]).lower()
    for known in (*names.PARQUET, *names.CSV):
        if suffixes.endswith(known):
            return known
    raise BadDefinition(
        f"source {source.name!r}: {key} is neither parquet nor CSV", hint="name an object that ends in .parquet or .csv"
    )
