"""Runs at the start of every Python that ``holdfast run`` starts, in whatever environment that is: the standard library only.

It notes which files are opened for reading (an audit hook; readers that open files outside Python are wrapped by name), which
notebook cells ran in which order, and seeds what draws at random. It never makes the script fail: what goes wrong here is
left out. Notes are lines in ``$HOLDFAST_OBSERVE``, a file per process, written as things happen, so a killed script has its.
"""

# mypy: ignore-errors
# ruff: noqa: BLE001, PTH100, PTH112, PTH113, PTH118, PTH120, PTH207, S110, SIM105
# (untyped and old-fashioned on purpose: it also runs in Pythons older than ours, and must not fail there)
import os
import sys


def _observe(folder):
    import json

    seed = os.environ.get("HOLDFAST_SEED")
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.__file__), folder}
    prefixes |= {os.path.realpath(p) for p in prefixes}
    prefixes |= {
        "/proc",
        "/sys",
        "/dev",
        "/etc",
        "/usr",
        "/lib",
        "/bin",
        "/opt",
        "/run",
        "/var/lib",
        "/System",
        "/Library",
    }
    ignored = tuple(p.rstrip("/") + "/" for p in prefixes if p)
    hidden = tuple(
        f"/{name}/"
        for name in (
            ".git",
            ".dvc",
            ".holdfast",
            "site-packages",
            "__pycache__",
            ".ipynb_checkpoints",
            ".ipython",
            ".config",
            ".jupyter",
            ".local/share/jupyter",
            ".matplotlib",
            ".cache/matplotlib",
        )
    )
    code = (".py", ".pyc", ".pyi", ".so", ".pth", ".dist-info", ".toml.lock")
    state = {"pid": 0, "fd": -1, "seen": set(), "busy": False}

    def write(kind, **values):
        # A forked child writes a file of its own; what was seen before the fork is its parent's.
        if state["pid"] != os.getpid():
            name = os.path.join(folder, f"{os.getpid()}.jsonl")
            state["fd"] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
            state["pid"] = os.getpid()
        os.write(state["fd"], (json.dumps({"kind": kind, **values}) + "\n").encode())

    def note(path, writes=False):
        if state["busy"]:
            return
        state["busy"] = True
        try:
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            elif hasattr(path, "__fspath__"):
                path = os.fspath(path)
            if not isinstance(path, str) or not path or path.startswith("<") or "\0" in path or "://" in path:
                return
            path = os.path.abspath(path)
            if (
                (path, writes) in state["seen"]
                or path.endswith(code)
                or path.startswith(ignored)
                or any(h in path for h in hidden)
            ):
                return
            state["seen"].add((path, writes))
            write("write" if writes else "read", path=path)
        except Exception:
            pass
        finally:
            state["busy"] = False

    def hook(event, arguments):
        if event == "open" and state["fd"] is not None:
            path, mode, flags = arguments
            if isinstance(path, int):
                return
            if isinstance(mode, str):
                writes = any(m in mode for m in "wxa")
            else:
                writes = isinstance(flags, int) and (flags & os.O_ACCMODE) == os.O_WRONLY
            note(path, writes)

    def wrap(module, name, where=0, every=False):
        inner = getattr(module, name, None)
        if not callable(inner) or isinstance(inner, type):
            return
        import functools

        @functools.wraps(inner)
        def outer(*arguments, **named):
            given = (
                list(arguments) + list(named.values())
                if every
                else list(arguments[where : where + 1]) or list(named.values())[:1]
            )
            for one in given:
                for value in one if isinstance(one, (list, tuple)) else [one]:
                    if isinstance(value, (str, bytes, os.PathLike)):
                        name_files(value)
            return inner(*arguments, **named)

        setattr(module, name, outer)

    def name_files(value):
        """A path, a folder of files, a pattern, or SQL that names files."""
        try:
            text = os.fsdecode(value)
            if len(text) < 4096 and os.path.isfile(text):
                note(text)
            elif len(text) < 4096 and os.path.isdir(text):
                for top, _, files in os.walk(text):
                    for file in files:
                        note(os.path.join(top, file))
            elif isinstance(value, str):
                import glob
                import re

                for quoted in re.findall(r"'([^'\n]{1,1000})'|\"([^\"\n]{1,1000})\"", text) or [(text, "")]:
                    for found in glob.glob(quoted[0] or quoted[1], recursive=True)[:10000]:
                        if os.path.isfile(found):
                            note(found)
        except Exception:
            pass

    def seeded(kind, seed_with):
        if seed is None:
            return
        try:
            seed_with(int(seed))
            write("seed", generator=kind)
        except Exception:
            pass

    def cells(module):
        # Every door (terminal, kernel, `ipython book.ipynb`) comes through this method; the events leave silent ones out.
        import functools

        inner = module.InteractiveShell.run_cell_async

        @functools.wraps(inner)
        async def run_cell_async(self, raw_cell, *arguments, **named):
            result = await inner(self, raw_cell, *arguments, **named)
            try:
                if raw_cell.strip():
                    write("cell", count=result.execution_count, source=raw_cell, ok=bool(result.success))
            except Exception:
                pass
            return result

        module.InteractiveShell.run_cell_async = run_cell_async

    def torch(module):
        seeded("torch", module.manual_seed)

    def polars(module):
        for name in dir(module):
            if name.startswith(("read_", "scan_")):
                wrap(module, name)

    def some(*names, every=False):
        return lambda module: [wrap(module, name, every=every) for name in names]

    # Readers that open files in C++ or Rust, where Python sees no open.
    after = {
        "numpy.random": lambda module: seeded("numpy", module.seed),
        "torch": torch,
        "tensorflow": lambda module: seeded("tensorflow", module.random.set_seed),
        "IPython.core.interactiveshell": cells,
        "pyarrow.parquet": some("read_table", "read_pandas"),
        "pyarrow.parquet.core": some("read_table", "read_pandas"),
        "pyarrow.csv": some("read_csv", "open_csv"),
        "pyarrow.json": some("read_json"),
        "pyarrow.feather": some("read_feather", "read_table"),
        "pyarrow.dataset": some("dataset"),
        "polars": polars,
        "duckdb": some(
            "sql",
            "query",
            "execute",
            "read_csv",
            "read_parquet",
            "read_json",
            "from_parquet",
            "from_csv_auto",
            every=True,
        ),
    }

    class Loader:
        def __init__(self, inner, then):
            self._inner, self._then = inner, then

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def create_module(self, spec):
            return self._inner.create_module(spec)

        def exec_module(self, module):
            # The module keeps its own loader: what asks it for files finds them.
            module.__spec__.loader = module.__loader__ = self._inner
            self._inner.exec_module(module)
            try:
                self._then(module)
            except Exception:
                pass

    class Finder:
        def find_spec(self, name, path=None, target=None):
            then = after.pop(name, None)
            if then is None:
                return None
            for finder in sys.meta_path:
                if finder is not self and hasattr(finder, "find_spec"):
                    spec = finder.find_spec(name, path, target)
                    if spec is not None:
                        if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                            spec.loader = Loader(spec.loader, then)
                        return spec
            return None

    import random

    write("process", argv=getattr(sys, "orig_argv", [])[:50])
    seeded("random", random.seed)
    if seed is not None and os.environ.get("PYTHONHASHSEED") == seed:
        write("seed", generator="PYTHONHASHSEED")
    sys.meta_path.insert(0, Finder())
    sys.addaudithook(hook)


def _next_sitecustomize():
    """The sitecustomize this one stands in front of."""
    here = os.path.dirname(os.path.abspath(__file__))
    import importlib.machinery

    others = [p for p in sys.path if os.path.abspath(p or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        import importlib.util

        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
    # What the script starts with another PYTHONPATH of its own is its affair; what it imports must not find this folder.
    sys.path[:] = others


if os.environ.get("HOLDFAST_OBSERVE"):
    try:
        _observe(os.environ["HOLDFAST_OBSERVE"])
    except Exception:
        pass
_next_sitecustomize()
