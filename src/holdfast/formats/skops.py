"""scikit-learn estimators as skops writes them: a zip with ``schema.json`` and arrays.

The list of types that may be made is ours and is written here; the file's own claims, and skops' defaults, count for
nothing. The schema is walked before skops sees it, and there is no falling back to any other loader.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from holdfast.core.errors import BadInput, NotTrusted, TooMuch, Unavailable
from holdfast.core.records import Package
from holdfast.formats.files import read_zip
from holdfast.formats.onnx import shape_scores

NAME = "skops"

# Estimators and their fitted parts, by module prefix. Nothing here runs code that the file brings.
_MODULES = re.compile(
    r"sklearn\.(ensemble|tree|linear_model|pipeline|preprocessing|impute|compose|svm|neighbors|naive_bayes|calibration|"
    r"decomposition|feature_selection|discriminant_analysis|dummy|neural_network|isotonic|cluster|_loss|"
    r"kernel_approximation|multiclass|_isotonic|cross_decomposition|random_projection|mixture)(\.[a-z_0-9A-Z]+)*\Z"
)
_EXACT = frozenset({
    "builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.list", "builtins.tuple",
    "builtins.dict",
    "builtins.set", "builtins.slice", "builtins.type", "builtins.NoneType", "builtins.bytes", "builtins.bytearray",
    "builtins.complex", "builtins.range", "collections.OrderedDict", "collections.defaultdict",
    "numpy.ndarray", "numpy.dtype", "numpy.ma.MaskedArray", "numpy.random.RandomState",
    "numpy.random._generator.Generator",
    "numpy.random.mtrand.RandomState", "scipy.sparse._csr.csr_matrix", "scipy.sparse._csc.csc_matrix",
    "sklearn.utils._bunch.Bunch", "sklearn._loss.link.Interval", "sklearn._loss.link.LogitLink",
    "sklearn.utils._tags.Tags", "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest", })  # fmt: skip
_NUMPY_SCALAR = re.compile(
    r"numpy\.(float|int|uint|bool|str|intc|intp|longlong|ulonglong|double|single|half|datetime|timedelta)\w*\Z"
)
_LOADERS = frozenset({
    "ObjectNode", "DictNode", "DefaultDictNode", "ListNode", "TupleNode", "SetNode", "SliceNode", "JsonNode",
    "NdArrayNode", "MaskedArrayNode", "RandomStateNode", "RandomGeneratorNode", "DTypeNode", "SparseMatrixNode",
    "TypeNode", "TreeNode", "LossNode", "CachedNode", "BytesNode", "BytearrayNode", "ReduceNode", "OrderedDictNode",
    "_DictWithDeprecatedKeysNode",
})  # fmt: skip
# Text vectorisers take callables for analysing text; models here take numbers.
_REFUSED = frozenset({"CountVectorizer", "TfidfVectorizer", "HashingVectorizer"})
# Functions a model may hold (in a FunctionTransformer, say); gradient boosting passes plain columns through the first.
_FUNCTIONS = frozenset({
    "sklearn.utils.validation.check_array", "numpy.log1p", "numpy.log", "numpy.expm1", "numpy.exp", "numpy.sqrt",
    "numpy.abs", "numpy.absolute", "numpy.sign", "numpy.square", "numpy.isnan",
})  # fmt: skip


def check_schema(members: dict[str, bytes]) -> set[str]:
    """Every type a skops file would make; all of them on our list.

    Raises:
        BadInput: there is no readable schema.
        NotTrusted: a type or a node kind is not on the list.
    """
    if len(members["schema.json"]) > 256 << 20:
        raise TooMuch("the schema of this skops file is absurdly large")
    try:
        schema = json.loads(members["schema.json"])
    except (ValueError, RecursionError):
        raise BadInput("the schema of this skops file is not JSON") from None
    types: set[str] = set()
    stack: list[tuple[Any, int]] = [(schema, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > 500:
            raise TooMuch("the schema of this skops file is nested deeper than 500")
        if isinstance(node, list):
            stack.extend((child, depth + 1) for child in node)
        elif isinstance(node, dict):
            loader, module, name = node.get("__loader__"), node.get("__module__"), node.get("__class__")
            if loader is not None or module is not None or name is not None:
                types.add(_check_node(loader, module, name))
            stack.extend((child, depth + 1) for child in node.values() if isinstance(child, dict | list))
    return types


def _check_node(loader: object, module: object, name: object) -> str:
    full = f"{module}.{name}"
    if not all(isinstance(x, str) for x in (loader, module, name)):
        good = False
    elif loader == "FunctionNode":
        good = full in _FUNCTIONS
    elif loader == "PartialNode":
        good = full == "functools.partial"
    else:
        known = full in _EXACT or _NUMPY_SCALAR.match(full) or _MODULES.match(str(module))
        good = bool(known) and loader in _LOADERS and name not in _REFUSED
    if not good:
        raise NotTrusted(
            f"this skops file wants to make {full} by {loader}, which is not on Holdfast's list of model types",
            hint="save the model as ONNX, or pickle it and have its hash trusted: `holdfast models trust FILE`",
        )
    return full


class SklearnPredictor:
    """A ``Predictor`` over a fitted estimator: probabilities where it has them, else decisions through a sigmoid are
    not invented: a classifier without probabilities is refused at packaging."""

    def __init__(self, estimator: Any, *, task: str) -> None:
        self.estimator = estimator
        self._task = task
        self._score = estimator.predict if task == "regression" else estimator.predict_proba
        _one_thread(estimator)

    def scores(self, matrix: Any) -> Any:
        import warnings

        with warnings.catch_warnings():
            # Columns are bound by name before they get here; scikit-learn would warn about each call.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            return shape_scores(self._score(np.ascontiguousarray(matrix, dtype=np.float64)), self._task)


def _one_thread(estimator: Any) -> None:
    """A process pool per request costs more than it gives: replicas are the parallelism."""
    for part in [estimator, *(s for _, s in getattr(estimator, "steps", []))]:
        if hasattr(part, "n_jobs") and part is not None:
            try:
                part.n_jobs = 1
            except AttributeError:
                continue


def dump(estimator: Any) -> bytes:
    """An estimator as skops bytes that this module will load again.

    Raises:
        NotTrusted: it is made of types that are not on the list.
        Unavailable: skops is not installed.
    """
    try:
        import skops.io
    except ImportError:
        raise Unavailable("skops is not installed", hint="pip install 'holdfast[sklearn]'") from None
    try:
        data = bytes(skops.io.dumps(estimator))
    except Exception as error:  # noqa: BLE001  other people's parsers raise anything; all of it is bad input here
        raise BadInput(
            f"{type(estimator).__name__} cannot be written safely: {error}",
            hint="export it to ONNX and register that file",
        ) from None
    check_schema(read_zip(data, what="this model"))
    return data


def load_estimator(data: bytes) -> Any:
    """The estimator in skops bytes.

    Raises:
        BadInput, NotTrusted, TooMuch: see ``check_schema`` and ``read_zip``.
        Unavailable: skops or scikit-learn is not installed.
    """
    members = read_zip(data, what="this skops file")
    if "schema.json" not in members:
        raise BadInput("this is not a skops file: it has no schema.json")
    check_schema(members)
    try:
        import skops.io
    except ImportError:
        raise Unavailable("this model needs scikit-learn and skops", hint="pip install 'holdfast[sklearn]'") from None
    # Only what skops itself finds untrusted needs naming, and only types that passed our list reach this line.
    try:
        asked = skops.io.get_untrusted_types(data=data)
        return skops.io.loads(data, trusted=list(asked))
    except Exception as error:  # noqa: BLE001  other people's parsers raise anything; all of it is bad input here
        raise BadInput(
            f"this skops file cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            hint="load it with the scikit-learn version it was saved with (see the package's environment)",
        ) from None


def parse(data: bytes, package: Package, *, threads: int = 1) -> SklearnPredictor:
    """A predictor from skops bytes."""
    estimator = load_estimator(data)
    if package.task != "regression" and not hasattr(estimator, "predict_proba"):
        raise BadInput(f"{type(estimator).__name__} gives no probabilities", hint="wrap it in CalibratedClassifierCV")
    width = getattr(estimator, "n_features_in_", len(package.inputs))
    if width != len(package.inputs):
        raise BadInput(f"this model takes {width} inputs, the package has {len(package.inputs)}")
    return SklearnPredictor(estimator, task=package.task)
