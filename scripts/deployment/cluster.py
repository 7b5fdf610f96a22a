"""The Kubernetes API as this deployment needs it: objects by reference, errors by meaning.

Built on the official client's transport and configuration. Objects stay plain JSON, so that a
custom resource is no different from a built-in one. Every call has a deadline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from kustomization import Manifest

from .errors import (
    AccessError,
    ConflictError,
    DeploymentError,
    MissingKindError,
    NoClusterError,
    NotFoundError,
    RejectedError,
    UnavailableError,
)
from .objects import Ref

__all__ = ["FIELD_MANAGER", "Cluster", "Resource"]

FIELD_MANAGER = "inference-anywhere"
"""Under this name the API server records which fields are ours (server-side apply)."""

# A file that is no kubeconfig at all makes the official client fail in any of these ways.
UNREADABLE = (ConfigException, yaml.YAMLError, OSError, TypeError, ValueError, AttributeError)

TIMEOUT_S = (5.0, 30.0)
"""To connect, and to read."""

PAGE = 500
"""Objects per page of a list."""

# What brings a kind that is not there, and how to get it.
PROVIDERS: Mapping[str, str] = {
    "core.spinkube.dev": "the Spin operator: kubectl apply -f https://github.com/spinframework/"
    "spin-operator/releases/download/v0.6.1/spin-operator.crds.yaml, then its Helm chart",
    "runtime.spinkube.dev": "runtime-class-manager: helm install rcm --namespace rcm "
    "--create-namespace --version 0.2.0 oci://ghcr.io/spinframework/charts/runtime-class-manager",
    "keda.sh": "KEDA: helm install keda keda --repo https://kedacore.github.io/charts "
    "--namespace keda --create-namespace",
    "monitoring.coreos.com": "the Prometheus operator: helm install monitoring "
    "kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts "
    "--namespace monitoring --create-namespace",
    "gateway.networking.k8s.io": "the Gateway API: kubectl apply -f https://github.com/"
    "kubernetes-sigs/gateway-api/releases/download/v1.6.1/standard-install.yaml",
    "cert-manager.io": "cert-manager: kubectl apply -f https://github.com/cert-manager/"
    "cert-manager/releases/download/v1.20.0/cert-manager.yaml",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """How the API server serves a kind."""

    plural: str
    namespaced: bool


class Cluster:
    """One API server, one user."""

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api
        self._resources: dict[tuple[str, str], Resource] = {}

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> Cluster:
        """Use a kubeconfig, else the pod's own account.

        Raises:
            NoClusterError: There is neither, the file is malformed, or nobody answers.
        """
        settings = client.Configuration()
        # A cluster that does not answer is told so at once; the caller decides to try again.
        settings.retries = False
        try:
            config.load_kube_config(kubeconfig, context, client_configuration=settings)  # type: ignore[no-untyped-call]
        except UNREADABLE as exc:
            try:
                if kubeconfig or context:
                    raise ConfigException from exc
                config.load_incluster_config(  # type: ignore[no-untyped-call]
                    client_configuration=settings
                )
            except ConfigException:
                raise NoClusterError(
                    f"no usable kubeconfig ({exc}): set KUBECONFIG, pass --kubeconfig FILE, or "
                    "make a cluster (`kind create cluster`)"
                ) from exc
        cluster = cls(client.ApiClient(settings))
        try:
            cluster.version()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def close(self) -> None:
        """Close the connections to the server."""
        self.api.rest_client.pool_manager.clear()

    def version(self) -> tuple[int, int]:
        """The server's version, as (major, minor)."""
        found = self.request("GET", "/version")
        digits = "".join(filter(str.isdigit, str(found["minor"])))
        return int(found["major"]), int(digits)

    def resource(self, ref: Ref) -> Resource:
        """How the server serves a kind.

        Raises:
            MissingKindError: It does not; the message says what would bring it.
        """
        known = self._resources.get((ref.api_version, ref.kind))
        if known is not None:
            return known
        root = f"/apis/{ref.api_version}" if "/" in ref.api_version else f"/api/{ref.api_version}"
        try:
            found = self.request("GET", root)
        except NotFoundError:
            found = {"resources": []}
        for one in found["resources"]:
            if "/" not in one["name"]:
                resource = Resource(one["name"], bool(one["namespaced"]))
                self._resources[ref.api_version, one["kind"]] = resource
        try:
            return self._resources[ref.api_version, ref.kind]
        except KeyError:
            provider = PROVIDERS.get(ref.group, "the component that defines it")
            raise MissingKindError(
                f"the cluster does not know the kind {ref.kind} ({ref.api_version}). "
                f"It comes with {provider}"
            ) from None

    def serves(self, ref: Ref) -> bool:
        """Say whether the server knows the kind."""
        try:
            self.resource(ref)
        except MissingKindError:
            return False
        return True

    def find(self, ref: Ref) -> Manifest | None:
        """The live object, or None."""
        try:
            return self.request("GET", self.path(ref))
        except NotFoundError:
            return None

    def select(self, like: Ref, *, labels: str = "", fields: str = "") -> Iterator[Manifest]:
        """Objects of a kind: in `like.namespace`, or in all where it is empty."""
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = self.request("GET", self.path(like, collection=True), query=query)
            for item in page.get("items") or ():
                # Items of a list carry neither.
                yield {**item, "apiVersion": like.api_version, "kind": like.kind}
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> Manifest:
        """Server-side apply: the object as it is now, or would be.

        Raises:
            ConflictError: Another manager holds a field, and `force` is off.
            RejectedError: The object is invalid, or a webhook refuses it.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        if force:
            query["force"] = "true"
        return self.request(
            "PATCH",
            self.path(Ref.of(manifest)),
            query=query,
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object that must not be there yet."""
        path = self.path(Ref.of(manifest), collection=True)
        return self.request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """Delete an object, only the one with `uid` where that is given; absent is well."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", self.path(ref), body=body)
        except NotFoundError:
            return

    def logs(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool) -> str:
        """The last lines of a container's log; of its predecessor where `previous`."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": "65536"}
        if previous:
            query["previous"] = "true"
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log"
        return self._send("GET", path, query).decode(errors="replace")

    def credentials(self, path: str, method: str = "GET") -> dict[str, str]:
        """Headers that say who we are; tokens that expire are renewed by the official client."""
        headers: dict[str, str] = {}
        self.api.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        return headers

    def path(self, ref: Ref, *, collection: bool = False) -> str:
        """The URL path of an object, or of its kind's collection."""
        resource = self.resource(ref)
        root = f"/apis/{ref.api_version}" if "/" in ref.api_version else f"/api/{ref.api_version}"
        if resource.namespaced and ref.namespace:
            root += f"/namespaces/{quote(ref.namespace)}"
        root += f"/{resource.plural}"
        return root if collection else f"{root}/{quote(ref.name)}"

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request and return the object of the answer.

        Raises:
            DeploymentError: One of its kinds, by the status of the answer.
        """
        answer: dict[str, Any] = json.loads(self._send(method, path, query, body, content_type))
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        headers |= self.credentials(path, method)
        url = self.api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self.api.rest_client.pool_manager.request(
                method,
                url,
                headers={**self.api.default_headers, **headers},
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(*TIMEOUT_S),
                retries=False,
            )
        except urllib3.exceptions.HTTPError as exc:
            host = self.api.configuration.host
            raise NoClusterError(
                f"the cluster at {host} does not answer ({type(exc).__name__}): is it running, and "
                "is this the context you mean (`kubectl config current-context`)?"
            ) from exc
        if answer.status >= 400:
            raise _error(answer.status, answer.data, f"{method} {path}")
        data: bytes = answer.data
        return data


def _error(status: int, data: bytes, request: str) -> DeploymentError:
    """Translate an answer's `Status` object.

    Source:
        Kubernetes API conventions, "Response Status Kind".
    """
    try:
        body = json.loads(data)
    except ValueError:
        body = {}
    message = body.get("message") or data.decode(errors="replace")[:500] or f"status {status}"
    if status == 401:
        return AccessError(f"the cluster does not know these credentials ({message}): log in again")
    if status == 403:
        return AccessError(f"{message}. `scripts/deploy.py doctor` lists the rights it needs")
    if status == 404:
        return NotFoundError(message)
    if status == 409:
        return ConflictError(message)
    if status in (400, 422):
        return RejectedError(message, immutable="immutable" in message)
    if status in (500, 502, 503, 504, 429):
        return UnavailableError(f"the API server cannot do this now ({status}): {message}")
    return DeploymentError(f"{request}: {status}: {message}")
