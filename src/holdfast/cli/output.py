"""How commands print: a record as JSON or as a table drawn from the same record, progress on stderr. What only prints plainly
does not load click."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import click

C = TypeVar("C", bound="Callable[..., Any] | click.Command")


def json_option(command: C) -> C:
    """``--json`` for a command."""
    import click

    return click.option("--json", "as_json", is_flag=True, help="Print the data as JSON on stdout.")(command)


def echo(line: str, *, err: bool = False, fg: str | None = None, bold: bool = False, dim: bool = False) -> None:
    """A line on stdout or stderr, in colour where that is a terminal. What that has no letters for is written as escapes."""
    stream = sys.stderr if err else sys.stdout
    if (fg or bold or dim) and stream.isatty():
        import click

        click.secho(line, err=err, fg=fg, bold=bold, dim=dim)
        return
    try:
        stream.write(line + "\n")
    except UnicodeEncodeError:
        stream.write(line.encode(stream.encoding, "backslashreplace").decode(stream.encoding) + "\n")
    stream.flush()


def notices_as_talk() -> None:
    """A notice is talk, and where in our source it was said is nobody's business."""
    warnings.formatwarning = _formatted


_format = warnings.formatwarning


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category.__name__ == "Notice":
        return f"notice: {message}\n"
    return _format(message, category, filename, lineno, line)


def emit(value: Any, *, as_json: bool, text: Callable[[], None] | None = None) -> None:
    """Print ``value`` as one JSON document, or run ``text`` to draw it for people."""
    if as_json or text is None:
        import msgspec

        echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        text()


def say(message: str) -> None:
    """Talk, on stderr."""
    echo(message, err=True)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A plain aligned table on stdout; nothing is cut off when stdout is not a terminal."""
    if title:
        echo(title, bold=True)
    cells = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(h), *(len(r[i]) for r in cells)) if cells else len(h) for i, h in enumerate(headers)]
    echo("  ".join(h.ljust(w) for h, w in zip(headers, widths, strict=True)).rstrip(), dim=True)
    for row in cells:
        echo("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar on stderr where that is a terminal, a line now and then where it is not.

    Yields ``report(done, total or None, what)``.
    """
    if quiet:
        yield lambda done, total, what: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
            task = bar.add_task(label, total=None, what="")
            yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)
        return
    import time

    last = 0.0
    said = ""

    def line(done: int, total: int | None, what: str) -> None:
        nonlocal last, said
        now = time.monotonic()
        share = f" {100 * done // max(total, 1)} %" if total else f" {done}"
        text = f"{label}:{share} {what}".rstrip()
        finished = total is not None and done >= total
        if text != said and (now - last >= 5 or finished):
            last, said = now, text
            echo(text, err=True)

    yield line
