"""Finding and loading the user's project: the folder with ``holdfast.toml`` or ``definitions.py``, and its module."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from holdfast.core.definitions import Definition, Project
from holdfast.core.errors import BadDefinition, HoldfastError, NotFound

MARKS = ("holdfast.toml", "definitions.py", ".holdfast")
"""What makes a folder a project."""


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above ``start`` that holds holdfast.toml, definitions.py or .holdfast; else ``start``."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in MARKS):
            return folder
    return start


def require_root() -> Path:
    """The project of the current folder, before a command that would make a store where there is none.

    Raises:
        NotFound: this is no project.
    """
    root = find_root()
    if not any((root / mark).exists() for mark in MARKS):
        raise NotFound(
            f"{root} is no Holdfast project", hint="cd into one or name it with -C; `holdfast init` scaffolds one"
        )
    return root


def load(root: Path, module: str = "definitions") -> Project:
    """Run the definitions module of a project and collect what it defines.

    Raises:
        NotFound: there is no such module.
        BadDefinition: it does not run; the message has file, line and the error.
    """
    return Project(v for v in vars(load_module(root, module)).values() if isinstance(v, Definition))


def importable(root: Path) -> None:
    """Let the project's modules be imported: definitions import each other, and a pickle the classes it was made of."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))


def load_module(root: Path, module: str = "definitions") -> ModuleType:
    """The user's definitions module, run afresh. Its folder is importable while it lives."""
    path = (root / (module if module.endswith(".py") else module.replace(".", "/") + ".py")).resolve()
    if not path.is_file():
        raise NotFound(
            f"no definitions: {path.name} is not in {root}",
            hint="run `holdfast init` to scaffold a project, or cd into one",
        )
    importable(root)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BadDefinition(f"{path.name} cannot be loaded")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    try:
        spec.loader.exec_module(loaded)
    except HoldfastError as error:
        raise BadDefinition(f"{_where(path, error)}: {error.message}", hint=error.hint) from error
    except SyntaxError as error:
        raise BadDefinition(f"{path.name}:{error.lineno}: {error.msg}", hint="mend the line and run again") from error
    except ModuleNotFoundError as error:
        hint = "mend the line and run again, or install it" + (f": pip install {error.name}" if error.name else "")
        raise BadDefinition(f"{_where(path, error)}: {error}", hint=hint) from error
    except Exception as error:
        raise BadDefinition(
            f"{_where(path, error)}: {type(error).__name__}: {error}", hint="mend the line and run again"
        ) from error
    return loaded


def _where(path: Path, error: BaseException) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{path.name}:{lines[-1]}" if lines else path.name
