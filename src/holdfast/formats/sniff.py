"""What a file is, told from its bytes and nothing else."""

from __future__ import annotations

import re

FORMATS = ("onnx", "skops", "safetensors", "xgboost", "lightgbm", "pickle", "joblib", "npz", "zip", "unknown")

_PICKLE_TEXT = re.compile(rb"(\(|[ciSIVFLNdlptgqh]|c[\w.]+\n)")


def sniff(data: bytes) -> str:
    """The format of a model file, one of ``FORMATS``. Cheap: looks at the first bytes and, in a zip, at member names.

    Signatures: pickle protocol 2+ starts ``80 0N`` (PEP 307/574) and ends ``.``; zip ``PK``; skops is a zip with
    ``schema.json``; npz a zip of ``.npy``; safetensors is a little-endian u64 length and a JSON object; LightGBM text
    starts ``tree\\n``; XGBoost is JSON with ``learner`` or UBJSON ``{L``; ONNX is a protobuf whose first field is the
    IR version (tag ``08``) or another known field of ModelProto.
    """
    head = data[:64]
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        return "pickle"
    if head.startswith((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"ZF")):
        return "joblib"
    if head.startswith(b"PK"):
        return _zip_kind(data)
    if _is_safetensors(data):
        return "safetensors"
    if head.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    stripped = head.lstrip()
    if stripped.startswith(b"{") and (
        b'"learner"' in data[:4096] or (b'"version"' in data[:4096] and b'"learner"' in data)
    ):
        return "xgboost"
    if head.startswith((b"{L", b"{i", b"{U", b"{l")) and b"learner" in data[:65536]:
        return "xgboost"
    # An ONNX ModelProto by field order of every known writer: ir_version (08), or producer (12), domain, graph (3a).
    if len(head) >= 4 and head[0] == 0x08 and head[1] <= 0x20 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42):
        return "onnx"
    if data.rstrip().endswith(b".") and _PICKLE_TEXT.match(head):
        return "pickle"
    return "unknown"


def _zip_kind(data: bytes) -> str:
    import zipfile
    from io import BytesIO

    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()[:10_000]
    except Exception:  # noqa: BLE001  a zip that cannot be listed is of no known kind
        return "zip"
    if "schema.json" in names:
        return "skops"
    if any(n.endswith("/data.pkl") or n == "data.pkl" for n in names):
        return "pickle"
    if names and all(n.endswith(".npy") for n in names):
        return "npz"
    return "zip"


def _is_safetensors(data: bytes) -> bool:
    if len(data) < 10:
        return False
    size = int.from_bytes(data[:8], "little")
    return 2 <= size <= 100_000_000 and data[8:9] == b"{" and data[9:10] in (b'"', b"}", b" ")
