"""A model version as a container: the build context, and what runs it (Kubernetes, compose).

Everything here returns file contents; the same input gives the same bytes. Nothing from a model's data is put into a shell
line: the Dockerfile uses exec forms, and names follow the name grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.core.errors import BadInput
from holdfast.core.identity import check_name

PORT = 8080
USER = 10001
_DIGEST = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}\Z")
_REFERENCE = re.compile(r"[a-z0-9][\w.:/@-]{0,254}\Z")
_HEALTH = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/health/ready', timeout=2)"


class Sizes(NamedTuple):
    """What one replica may use."""

    cpu: str = "1"
    memory: str = "512Mi"
    replicas: int = 2
    most: int = 8


def dockerfile(*, base: str, service: str, local_wheel: str | None, hashed: bool) -> str:
    """The Dockerfile. ``base`` must be pinned by digest.

    Raises:
        BadInput: it is not.
    """
    if not _DIGEST.match(base):
        raise BadInput(
            f"the base image {base!r} is not pinned by digest",
            hint="give name@sha256:…; `docker buildx imagetools inspect python:3.11-slim` shows it",
        )
    check_name(service, "service")
    install = ["python", "-m", "pip", "install", "--no-cache-dir", "--no-deps"]
    lock = [*install, *(["--require-hashes"] if hashed else []), "-r", "requirements.lock"]
    package = [*install, local_wheel] if local_wheel else None
    # All interfaces of the container's own network; serve refuses to do so without a token.
    everywhere = "0.0.0.0"  # noqa: S104
    serve = ["python", "-m", "holdfast.cli.main", "serve", service]
    command = [*serve, "--host", everywhere, "--port", str(PORT), "--replicas", "1"]
    lines = [
        f"FROM {base}",
        "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1",
        "WORKDIR /app",
        "COPY requirements.lock ./",
        f"RUN {json.dumps(lock)}",
        *([f"COPY {local_wheel} ./", f"RUN {json.dumps(package)}"] if package else []),
        f"COPY --chown={USER}:{USER} workspace/ /app/workspace/",
        f"USER {USER}:{USER}",
        "WORKDIR /app/workspace",
        'VOLUME ["/app/workspace/.holdfast/predictions", "/app/workspace/.holdfast/labels"]',
        f"EXPOSE {PORT}",
        f"HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD {json.dumps(['python', '-c', _HEALTH])}",
        "STOPSIGNAL SIGTERM",
        f"CMD {json.dumps(command)}",
    ]
    return "\n".join(lines) + "\n"


def lock(pins: Mapping[str, str], hashes: Mapping[str, Sequence[str]] | None = None) -> str:
    """A requirements file with exact versions, in order, and with the SHA-256 of each file where ``hashes`` are given."""
    lines = []
    for name, version in sorted(pins.items()):
        known = [] if hashes is None else [f" --hash=sha256:{h}" for h in sorted(hashes[name])]
        lines.append(" \\\n   ".join([f"{name}=={version}", *known]) + "\n")
    return "".join(lines)


def check_lock(text: str, needed: Iterable[str]) -> None:
    """Whether a lock pins every package exactly, with hashes, and has all that a replica needs.

    Raises:
        BadInput: it does not; names the first that is missing.
    """
    held = set()
    for line in re.sub(r"\\\s*\n", " ", text).splitlines():
        line = line.split(" #", 1)[0].strip()
        if not line or line.startswith(("#", "--index-url", "--extra-index-url", "--only-binary")):
            continue
        found = re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,.-]*\])?==[^\s;]+", line)
        if not found or not re.search(r"--hash=sha256:[0-9a-f]{64}\b", line):
            raise BadInput(
                f"the lock's line {line[:80]!r} is not pinned with a hash",
                hint="make it with `uv pip compile --generate-hashes` or `pip-compile --generate-hashes`",
            )
        held.add(re.sub(r"[-_.]+", "-", found[1]).lower())
    missing = sorted({re.sub(r"[-_.]+", "-", n).lower() for n in needed} - held)
    if missing:
        raise BadInput(f"the lock lacks {missing[0]!r}, which a replica needs", hint="make the lock for this Holdfast")


def kubernetes(
    service: str,
    *,
    image: str,
    namespace: str = "default",
    sizes: Sizes | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget by file name.

    The access token comes from the Secret ``<name>-token`` (key ``token``), which is the operator's to make.

    Raises:
        BadInput: a name cannot be used in Kubernetes.
    """
    if not _REFERENCE.match(image):
        raise BadInput(f"{image!r} is not an image reference")
    sizes = sizes or Sizes()
    name, namespace = dns_name(service), dns_name(namespace)
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "holdfast"}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    hosts = [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]
    variables: list[dict[str, Any]] = [
        {"name": "HOLDFAST_SERVE_TOKEN", "valueFrom": {"secretKeyRef": {"name": f"{name}-token", "key": "token"}}},
        {"name": "HOLDFAST_SERVE_HOSTS", "value": ",".join(hosts)},
        *({"name": k, "value": v} for k, v in sorted((environment or {}).items())),
    ]
    container = {
        "name": "serve",
        "image": image,
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": variables,
        "resources": {"requests": {"cpu": sizes.cpu, "memory": sizes.memory}, "limits": {"memory": sizes.memory}},
        "startupProbe": _probe("/health/live", 1, 60),
        "livenessProbe": _probe("/health/live", 5, 3),
        "readinessProbe": _probe("/health/ready", 2, 2),
        # The endpoint is taken out of the Service before the process is told to stop.
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-c", "import time; time.sleep(3)"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": v, "mountPath": p} for v, p in _VOLUMES],
    }  # fmt: skip
    pod = {
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 45,
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
             "labelSelector": {"matchLabels": labels}},
        ],
        "containers": [container],
        "volumes": [{"name": v, "emptyDir": {}} for v, _ in _VOLUMES],
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": sizes.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)}},
                "spec": pod,
            },
        },
    }  # fmt: skip
    return {
        "deployment.yaml": deployment,
        "service.yaml": {
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
        "autoscaler.yaml": {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta,
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": sizes.replicas,
                "maxReplicas": max(sizes.most, sizes.replicas),
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}],
            },
        },
        "disruption.yaml": {
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        },
    }  # fmt: skip


def compose(service: str, *, image: str, replicas: int = 2, balancer: str = "haproxy:3.0-alpine") -> dict[str, Any]:
    """A compose file: replicas, and HAProxy in front with ``haproxy_config``. The token comes from the environment."""
    name = dns_name(service)
    return {
        "name": name,
        "services": {
            "serve": {
                "image": image,
                "environment": {
                    "HOLDFAST_SERVE_TOKEN": "${HOLDFAST_SERVE_TOKEN:?make one}",
                    "HOLDFAST_SERVE_HOSTS": f"{name},localhost",
                },
                "deploy": {"replicas": replicas},
                "read_only": True,
                "tmpfs": ["/tmp"],  # noqa: S108 - in the container
                "volumes": [f"{v}:{p}" for v, p in _VOLUMES if v != "tmp"],
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "stop_grace_period": "45s",
                "restart": "unless-stopped",
            },
            "balancer": {
                "image": balancer,
                "ports": [f"127.0.0.1:{PORT}:{PORT}"],
                "volumes": ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"],
                "depends_on": ["serve"],
                "restart": "unless-stopped",
            },
        },
        "volumes": {v: {} for v, _ in _VOLUMES if v != "tmp"},
    }


def haproxy_config(*, replicas: int = 2) -> str:
    """HAProxy: least connections, readiness checks, one retry on another replica for a connection that was lost."""
    return f"""\
global
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 75s
  timeout server 40s
  timeout http-request 20s
  retries 1
  option redispatch
  retry-on conn-failure empty-response 502
resolvers docker
  nameserver dns 127.0.0.11:53
frontend in
  bind :{PORT}
  unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
  http-request set-header X-Holdfast-Prediction-Id %[unique-id] unless {{ req.hdr(X-Holdfast-Prediction-Id) -m found }}
  default_backend serve
backend serve
  balance leastconn
  option httpchk GET /health/ready
  server-template serve {max(replicas * 4, 8)} serve:{PORT} check inter 1s resolvers docker init-addr none
"""


_HOME = "/app/workspace/.holdfast"
_VOLUMES: Sequence[tuple[str, str]] = (
    ("predictions", f"{_HOME}/predictions"), ("labels", f"{_HOME}/labels"), ("run", f"{_HOME}/run"),
    ("packages", f"{_HOME}/packages"), ("tmp", "/tmp"),  # noqa: S108 - in the container
)  # fmt: skip


def _probe(path: str, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def dns_name(name: str) -> str:
    """A name as Kubernetes takes it (RFC 1123 label).

    Raises:
        BadInput: too long, or nothing is left.
    """
    out = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not out or len(out) > 57:
        raise BadInput(f"{name!r} cannot be a name in Kubernetes", hint="use at most 57 letters, digits and dashes")
    return out
