"""Listing a run's artifacts, and what the server says about itself. Bytes move in ``transfer``."""

# ruff: noqa: S106  ("str" is the type of the page_token field, not a password)
from __future__ import annotations

from holdfast.core.records import Json
from holdfast.protocols.mlflow.artifacts import check_path, directory, location
from holdfast.protocols.mlflow.context import Context
from holdfast.protocols.mlflow.wire import ProtocolError, Route, missing, optional

# The release of MLflow whose client and messages this was built and tested against.
PROTOCOL_VERSION = "3.17.2"


def list_run(ctx: Context, q: Json) -> Json:
    run_id = q.get("run_id") or q.get("run_uuid")
    if not run_id:
        raise missing("run_id")
    path = check_path(q.get("path", ""), empty=True)
    uri = ctx.runs.get_run(run_id).artifact_uri
    files = directory(ctx, location(uri), path)
    return {"root_uri": uri, "files": files} if files else {"root_uri": uri}


def list_folder(ctx: Context, q: Json) -> Json:
    files = directory(ctx, check_path(q.get("path", ""), empty=True))
    return {"files": files} if files else {}


def server_info(ctx: Context, q: Json) -> Json:
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": False,
        "presigned_upload_model_id_supported": False,
        "features_enabled": {"gateway": False},
    }


def no_presigned(ctx: Context, q: Json) -> Json:
    raise ProtocolError(
        "NOT_IMPLEMENTED", "Artifacts move through this server; there are no presigned URLs.", status=501
    )


ROUTES = [
    Route(
        "GET",
        "/api/2.0/mlflow/artifacts/list",
        list_run,
        optional(run_id="str", run_uuid="str", path="str", page_token="str"),
    ),
    Route("GET", "/api/2.0/mlflow-artifacts/artifacts", list_folder, optional(path="str")),
    Route("GET", "/api/3.0/mlflow/server-info", server_info, {}),
    Route("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url", no_presigned, {}),
    Route("POST", "/api/2.0/mlflow/artifacts/presigned-download-url", no_presigned, {}),
]
