"""Versions that an MLflow client made: the artifact tree as it was at registration, named by its content.

The tree's manifest (names and hashes of its files) is an object; its SHA-256 is the version's content. What is later
written under the same artifact path is another content and is never what an approval was given for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from holdfast.core.errors import BadInput, NotTrusted
from holdfast.core.identity import canonical
from holdfast.core.ports import Objects
from holdfast.core.records import FieldSpec, FileRef, Package, Record
from holdfast.registry.package import check_file_name


class Tree(Record, frozen=True, kw_only=True):
    """An artifact tree at one moment. ``source`` is kept only where the bytes are elsewhere: then it has no files."""

    kind: str
    files: dict[str, FileRef]
    source: str = ""


KIND = "artifact tree"
PYFUNC = "mlflow_pyfunc"
Task = Literal["binary", "multiclass", "regression"]
_MLMODEL_LIMIT = 1024 * 1024


def pin(objects: Objects, files: Mapping[str, FileRef]) -> str:
    """Store the manifest of a tree whose bytes are in the store; its SHA-256."""
    for name in files:
        check_file_name(name)
    return objects.put(canonical(Tree(kind=KIND, files=dict(sorted(files.items())))))


def elsewhere(objects: Objects, source: str) -> str:
    """The content of a version whose bytes this store does not hold: named by where they are said to be. The gate
    cannot measure it, so it cannot be approved where a verdict is asked for."""
    return objects.put(canonical(Tree(kind=KIND, files={}, source=source)))


def load(objects: Objects, content: str) -> Tree:
    """The tree with this content.

    Raises:
        NotFound: no such object.
        BadInput: the object is no artifact tree.
    """
    data = objects.get(content)
    try:
        tree = msgspec.json.decode(data, type=Tree)
    except msgspec.DecodeError:
        tree = None
    if tree is None or tree.kind != KIND:
        raise BadInput(f"{content[:12]} is not an artifact tree")
    return tree


def files_of(objects: Objects, content: str) -> dict[str, FileRef]:
    """The files of a version, whoever made it: names inside it to hashes and sizes."""
    data = objects.get(content)
    try:
        return msgspec.json.decode(data, type=_Files).files
    except msgspec.DecodeError:
        raise BadInput(f"{content[:12]} is neither a package nor an artifact tree") from None


def as_package(
    objects: Objects,
    content: str,
    *,
    name: str,
    inputs: Sequence[FieldSpec],
    task: Task,
    threshold: float | None = None,
    classes: Sequence[Any] = (),
    run_id: str | None = None,
    trusted: Callable[[str], bool] = lambda _: False,
) -> Package:
    """A tree that an MLflow client logged, as a package the formats can load and the gate can measure.

    The model file is the one its ``MLmodel`` names (flavors onnx, sklearn, xgboost, lightgbm; read as plain YAML, no code
    of it runs); what its bytes are decides who reads them. Any other python_function is taken whole. ``inputs`` are the
    model's columns in order; ``trusted`` says whether the operator vouches for bytes that run code.

    Raises:
        NotFound: the store has no such object.
        BadInput: the tree holds no model this can read.
        NotTrusted: the model is a pickle; its SHA-256 and the command that would trust it are named.
    """
    # The formats need NumPy; the server, which only pins trees, starts without it.
    from holdfast.formats.sniff import sniff

    tree = load(objects, content)
    if not tree.files:
        raise BadInput(
            f"the bytes of {name} are not in this store, only where they are said to be: {tree.source!r}",
            hint="log the model through this server, so that what is measured is what is approved",
        )
    model_file = _model_file(objects, tree, name)
    kind = PYFUNC if model_file == "MLmodel" else sniff(objects.get(tree.files[model_file].sha256))
    if kind in ("pickle", "joblib") and not trusted(tree.files[model_file].sha256):
        sha256 = tree.files[model_file].sha256
        raise NotTrusted(
            f"{model_file!r} of {name} is a pickle, which runs code when it is loaded",
            hint="log it with serialization_format='skops'; or, if you know who made it: "
            f"`holdfast models trust {sha256} --reason …`",
        )
    if kind not in ("skops", "onnx", "xgboost", "lightgbm", "safetensors", "pickle", "joblib", PYFUNC):
        raise BadInput(
            f"{model_file!r} of {name} is of no format the gate can load ({kind})", hint="log it as skops or ONNX"
        )
    columns = list(inputs)
    return Package(
        name=name,
        format=kind,
        task=task,
        model_file=model_file,
        original_file=model_file if kind != "onnx" else None,
        files=tree.files,
        inputs=columns,
        request=columns,
        outputs=[FieldSpec(name="score", dtype="float64")],
        classes=list(classes),
        threshold=threshold,
        run_id=run_id,
    )


def input_names(objects: Objects, content: str) -> list[str]:
    """The model's input columns as its MLflow signature names them; empty where it has none."""
    signature = _mlmodel(objects, load(objects, content)).get("signature")
    try:
        columns = msgspec.json.decode(signature["inputs"]) if signature else []
        return [c["name"] for c in columns if c.get("type") != "tensor"]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return []


def _model_file(objects: Objects, tree: Tree, name: str) -> str:
    flavors = _mlmodel(objects, tree).get("flavors")
    if isinstance(flavors, dict):
        for flavor, field in (
            ("onnx", "data"),
            ("sklearn", "pickled_model"),
            ("xgboost", "data"),
            ("lightgbm", "data"),
        ):
            found = flavors.get(flavor)
            named = found.get(field) if isinstance(found, dict) else None
            if isinstance(named, str) and named in tree.files:
                return named
        if isinstance(flavors.get("python_function"), dict):
            return "MLmodel"
    known = [n for n in tree.files if n.endswith((".onnx", ".skops"))]
    if len(known) == 1:
        return known[0]
    raise BadInput(
        f"{name} holds no model that MLmodel names: {', '.join(sorted(tree.files)[:8])}",
        hint="the gate measures models logged with mlflow.sklearn, onnx, xgboost, lightgbm or pyfunc",
    )


def _mlmodel(objects: Objects, tree: Tree) -> dict[str, Any]:
    ref = tree.files.get("MLmodel")
    if ref is None or ref.size > _MLMODEL_LIMIT:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(objects.get(ref.sha256).decode())
    except (YAMLError, UnicodeDecodeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Files(msgspec.Struct, frozen=True):
    files: dict[str, FileRef]
