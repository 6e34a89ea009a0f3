"""Manifests for Kubernetes: a claim for the model, a deployment of one pod, a service."""

from __future__ import annotations

import math
import shlex
from typing import Any, Final

from advisor.deploy.export import base
from advisor.facts.exports import ExportedFile

# Resource names of the vendors' device plugins.
_RESOURCES: Final = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
_KEY_FILE: Final = "api-key"
_SPARE: Final = 1.1
_DEFAULT_GIB: Final = 64


class Kubernetes:
    """``NAME.yaml``, and ``NAME-fill.yaml``: a pod through which the model is copied into its volume."""

    name = "kubernetes"
    title = "manifests for Kubernetes"
    needs: Final = "container"
    systems = ("linux", "darwin")

    def files(self, service: base.Service) -> tuple[ExportedFile, ...]:
        """The manifests. The secret is named, not written.

        Raises:
            AdvisorError: ``cannot-export`` for devices that have no resource name.
        """
        name = base.label(service.unit)
        parts = (_claim(service, name), _deployment(service, name), _service(service, name))
        return (
            ExportedFile(name=f"{name}.yaml", text=base.header(service, self.name) + base.yaml_of(*parts)),
            ExportedFile(
                name=f"{name}-fill.yaml",
                text=base.header(service, self.name, "Only to copy the model into its volume; delete it afterwards.")
                + base.yaml_of(_fill(service, name)),
            ),
        )

    def steps(self, service: base.Service) -> tuple[str, ...]:
        """Secret, volume, model, then the deployment."""
        name = base.label(service.unit)
        source = shlex.quote(str(service.artifact))
        return (
            *base.first_steps(service),
            f"tr -d '\\n' < {shlex.quote(service.key_file)}"
            f" | kubectl create secret generic {name}-api-key --from-file={_KEY_FILE}=/dev/stdin",
            # The volume may be one node's: the server waits until the model is in it.
            f"kubectl apply -f {name}.yaml && kubectl scale deployment/{name} --replicas=0",
            f"kubectl apply -f {name}-fill.yaml",
            f"kubectl wait --for=condition=Ready pod/{name}-fill --timeout=600s",
            f"kubectl cp {source} {name}-fill:{service.inside}",
            f"kubectl delete pod {name}-fill && kubectl scale deployment/{name} --replicas=1",
            f"kubectl rollout status deployment/{name} --timeout={base.READY_S}s",
            f"kubectl port-forward service/{name} {service.port}:{base.PORT}",
        )


def _meta(name: str, service: base.Service) -> dict[str, Any]:
    return {
        "name": name,
        "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "advisor"},
        "annotations": {"llm-advisor.org/plan": service.plan.id},
    }


def _claim(service: base.Service, name: str) -> dict[str, Any]:
    size = service.artifact_bytes
    gib = math.ceil(size * _SPARE / 2**30) if size is not None else _DEFAULT_GIB
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(f"{name}-model", service),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{gib}Gi"}}},
    }


def _security(c: base.Container) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": c.uid,
        "runAsGroup": c.gid,
        "fsGroup": c.gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


_CONFINED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _deployment(service: base.Service, name: str) -> dict[str, Any]:
    c = base.container(service)
    labels = {"app.kubernetes.io/name": name}
    probe = {"httpGet": {"path": service.health_path, "port": "http"}, "timeoutSeconds": 6}
    mounts = [
        {"name": "model", "mountPath": base.MODELS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - of the container
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "model", "persistentVolumeClaim": {"claimName": f"{name}-model", "readOnly": True}},
        {"name": "tmp", "emptyDir": {}},
    ]
    env: list[dict[str, Any]] = [{"name": k, "value": _escaped(v)} for k, v in sorted(c.env.items())]
    if c.key_variable is not None:
        reference = {"secretKeyRef": {"name": f"{name}-api-key", "key": _KEY_FILE}}
        env.append({"name": c.key_variable, "valueFrom": reference})
    else:
        folder, _, file = base.KEY.rpartition("/")
        mounts.append({"name": "key", "mountPath": folder, "readOnly": True})
        items = [{"key": _KEY_FILE, "path": file}]
        secret = {"secretName": f"{name}-api-key", "defaultMode": 0o440, "items": items}
        volumes.append({"name": "key", "secret": secret})
    if c.shared_bytes:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - of the container
        size = f"{c.shared_bytes // base.MIB}Mi"
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": base.STOP_S,
        "securityContext": _security(c),
        "containers": [
            {
                "name": "server",
                "image": c.image,
                "command": [_escaped(a) for a in c.entrypoint],
                "args": [_escaped(a) for a in c.arguments],
                "env": env,
                "ports": [{"name": "http", "containerPort": base.PORT}],
                "resources": _resources(service, c),
                "securityContext": _CONFINED,
                "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": base.READY_S // 5},
                "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
                "livenessProbe": {**probe, "periodSeconds": 15, "failureThreshold": 4},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name, service),
        "spec": {
            "replicas": 1,
            # The device and the volume are the pod's own: the old one goes before the new one comes.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": base.READY_S + 60,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _resources(service: base.Service, c: base.Container) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    if service.limit_bytes is not None and service.predicted_bytes is not None:
        limits["memory"] = f"{service.limit_bytes // base.MIB}Mi"
        asked = min(math.ceil(service.predicted_bytes / base.MIB), service.limit_bytes // base.MIB)
        requests["memory"] = f"{asked}Mi"
    if service.cores is not None:
        limits["cpu"] = str(service.cores + base.SERVING_CORES)
        requests["cpu"] = str(service.cores)
    if c.vendor != "cpu":
        if c.vendor not in _RESOURCES:
            raise base.cannot(
                f"Kubernetes has no resource name for {c.vendor} devices.", f"advisor export script {service.plan.id}"
            )
        limits[_RESOURCES[c.vendor]] = str(c.devices)
    return {"limits": limits, "requests": requests}


def _service(service: base.Service, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name, service),
        "spec": {
            "type": "ClusterIP",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": base.PORT, "targetPort": "http"}],
        },
    }


def _fill(service: base.Service, name: str) -> dict[str, Any]:
    c = base.container(service)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _meta(f"{name}-fill", service),
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": _security(c),
            "containers": [
                {
                    "name": "fill",
                    "image": c.image,  # needed on the node anyway; it has a shell and tar
                    "command": ["/bin/sh", "-c", "sleep 86400"],
                    "securityContext": _CONFINED,
                    "volumeMounts": [{"name": "model", "mountPath": base.MODELS}],
                }
            ],
            "volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": f"{name}-model"}}],
        },
    }


def _escaped(text: str) -> str:
    """``$(NAME)`` is replaced in commands and variables; ``$$`` is a ``$``."""
    return text.replace("$", "$$")


EXPORT: Final = Kubernetes()
