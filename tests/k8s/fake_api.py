"""A Kubernetes API server for tests: real HTTP, real discovery, real server-side apply.

kmock gives the protocol: URLs to resources, discovery documents, `Status` errors. This adds what a
deployment leans on: field ownership and conflicts, dry runs, strict validation against the real
schemas, immutable fields, selectors, pages, access reviews, logs and port forwarding.

Source:
    Kubernetes documentation, "Server-Side Apply"; API conventions.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import re
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp.web
import attrs
import kmock

from k8s.field_paths import FieldPath, leaves, names_an_item, put, take, value_at
from k8s.object_schemas import faults
from k8s.served_kinds import ADD_ONS, BUILT_IN
from kustomization import Manifest

__all__ = ["TOKEN", "ApiError", "FakeApi", "FakeServer"]

TOKEN = "a-token-of-the-test"
KUBERNETES_VERSION = "1.37.0"
PORT_FORWARD_PROTOCOL = "v4.channel.k8s.io"

IMMUTABLE = {
    "Job": (("spec", "template"),),
    "RuntimeClass": (("handler",),),
    "Deployment": (("spec", "selector"),),
    "StatefulSet": (("spec", "selector"), ("spec", "volumeClaimTemplates")),
}
Key = tuple[str, str, str]
"""Plural (with its API), namespace, name."""


class ApiError(kmock.KubernetesError):
    """An error answer: `ApiError(status, reason, message)`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__()
        for name, value in (("status", status), ("reason", reason), ("message", message)):
            object.__setattr__(self, name, value)


class FakeApi(kmock.KubernetesScaffold):
    """The API server's memory and manners."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.lock = threading.RLock()
        self.stored: dict[Key, Manifest] = {}
        self.owners: dict[Key, dict[str, set[FieldPath]]] = {}
        self.kinds: dict[str, tuple[str, str]] = {}
        self.forbidden: set[tuple[str, str]] = set()
        self.broken: list[tuple[int, str]] = []
        self.pod_logs: dict[tuple[str, str, bool], str] = {}
        self.version = (1, 37)
        self.changed: Callable[[Manifest], None] = lambda _manifest: None
        self.forwarded: Callable[[bytes], Awaitable[bytes]] | None = None
        self._serial = 0
        self._serve_kinds(BUILT_IN)

    def install(self, *add_ons: str) -> None:
        """Serve the kinds of add-ons, as their CRDs would."""
        for name in add_ons:
            self._serve_kinds(ADD_ONS[name])

    def _serve_kinds(self, served: Mapping[str, Mapping[str, tuple[str, bool]]]) -> None:
        for api_version, kinds in served.items():
            for kind, (plural, namespaced) in kinds.items():
                resource = f"{api_version}/{plural}"
                self.resources[resource] = kmock.ResourceInfo(kind=kind, namespaced=namespaced)
                self.kinds[resource] = (api_version, kind)

    # ── what tests do to the cluster ───────────────────────────────────────────────────────────

    def place(self, manifest: Manifest, manager: str = "somebody-else") -> Manifest:
        """Put an object there, as another client would have."""
        with self.lock:
            key = self._key_of(manifest)
            stored = self._admitted(key, copy.deepcopy(manifest), None)
            self.stored[key] = stored
            self.owners[key] = {manager: set(dict(leaves(manifest)))}
            self._note_managers(key)
            return stored

    def get_object(self, kind: str, name: str, namespace: str = "inference-anywhere") -> Manifest:
        found = self.find_object(kind, name, namespace)
        assert found is not None, f"{kind} {name} is not in the cluster"
        return found

    def find_object(
        self, kind: str, name: str, namespace: str = "inference-anywhere"
    ) -> Manifest | None:
        with self.lock:
            for (resource, where, called), manifest in self.stored.items():
                if self.kinds[resource][1] == kind and called == name and where in ("", namespace):
                    return manifest
        return None

    def of_kind(self, kind: str) -> list[Manifest]:
        with self.lock:
            return [one for one in self.stored.values() if one["kind"] == kind]

    def remove(self, kind: str, name: str) -> None:
        with self.lock:
            for key, manifest in list(self.stored.items()):
                if manifest["kind"] == kind and key[2] == name:
                    del self.stored[key]

    # ── requests ───────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if self.broken:
            status, message = self.broken.pop(0)
            raise ApiError(status, "ServerTimeout", message)
        if str(request.url.path) == "/version":
            major, minor = self.version
            answer = {
                "major": str(major),
                "minor": f"{minor}+",
                "gitVersion": f"v{major}.{minor}.0",
            }
            return aiohttp.web.json_response(answer)
        resource = request.resource
        if resource is not None and resource.plural is None and request.namespace:
            # kmock reads /api/v1/namespaces/x as something in x; it is the namespace itself.
            request = attrs.evolve(request, name=request.namespace, namespace=None)
            return await self._serve(request, "v1/namespaces")
        if resource is None or resource.plural is None:
            return await super()._handle(request)
        plural = resource.plural
        name = f"{resource.group}/{resource.version}/{plural}".lstrip("/")
        if name not in self.kinds:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return await self._serve(request, name)

    async def _serve(self, request: kmock.Request, resource: str) -> aiohttp.web.StreamResponse:
        if request.subresource == "portforward":
            return await self._serve_port_forward(request)
        method = str(request.method.value)
        verb = self._verb(method, request)
        plural = resource.rpartition("/")[2]
        if request.subresource:
            plural += f"/{request.subresource}"
        if (verb, plural) in self.forbidden:
            raise ApiError(403, "Forbidden", f'{plural} is forbidden: User "test" cannot {verb}')
        with self.lock:
            if request.subresource == "log":
                return self._serve_log(request)
            if resource.endswith("selfsubjectaccessreviews"):
                return aiohttp.web.json_response(self._review(request.data))
            key = (resource, request.namespace or "", request.name or "")
            serve = {
                "get": self._serve_get,
                "list": self._serve_list,
                "create": self._serve_create,
                "patch": self._serve_apply,
                "delete": self._serve_delete,
            }[verb]
            return aiohttp.web.json_response(serve(key, request))

    @staticmethod
    def _verb(method: str, request: kmock.Request) -> str:
        verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
        return verbs.get(method, "get" if request.name else "list")

    def _serve_get(self, key: Key, _request: kmock.Request) -> Manifest:
        return self._existing(key)

    def _existing(self, key: Key) -> Manifest:
        if key not in self.stored:
            plural = key[0].rpartition("/")[2]
            raise ApiError(404, "NotFound", f'{plural} "{key[2]}" not found')
        return self.stored[key]

    def _serve_list(self, key: Key, request: kmock.Request) -> dict[str, Any]:
        wanted = [
            manifest
            for (resource, namespace, _), manifest in sorted(self.stored.items())
            if resource == key[0]
            and key[1] in ("", namespace)
            and _labels_match(request.params.get("labelSelector", ""), manifest)
            and _fields_match(request.params.get("fieldSelector", ""), manifest)
        ]
        start, limit = int(request.params.get("continue", 0)), int(request.params.get("limit", 500))
        metadata = {"resourceVersion": str(self._serial)}
        if start + limit < len(wanted):
            metadata["continue"] = str(start + limit)
        api_version, kind = self.kinds[key[0]]
        items = [
            {name: value for name, value in one.items() if name not in ("apiVersion", "kind")}
            for one in wanted[start : start + limit]
        ]
        return {
            "apiVersion": api_version,
            "kind": f"{kind}List",
            "metadata": metadata,
            "items": items,
        }

    def _serve_create(self, key: Key, request: kmock.Request) -> Manifest:
        manifest = request.data
        key = (key[0], key[1], manifest["metadata"]["name"])
        if key in self.stored:
            plural = key[0].rpartition("/")[2]
            raise ApiError(409, "AlreadyExists", f'{plural} "{key[2]}" already exists')
        self._validate(key, manifest)
        stored = self._admitted(key, manifest, None)
        manager = request.params.get("fieldManager", "unknown")
        self.stored[key], self.owners[key] = stored, {manager: set(dict(leaves(manifest)))}
        self._note_managers(key)
        return stored

    def _serve_apply(self, key: Key, request: kmock.Request) -> Manifest:
        if request.headers.get("Content-Type") != "application/apply-patch+yaml":
            raise ApiError(415, "UnsupportedMediaType", "only server-side apply is served here")
        manager = request.params.get("fieldManager")
        if not manager:
            raise ApiError(400, "BadRequest", "fieldManager is required for apply patch")
        desired = json.loads(request.body)
        if desired["metadata"].get("namespace", "") != key[1]:
            raise ApiError(400, "BadRequest", "the namespace of the object does not match")
        self._validate(key, desired)
        live, owners = self.stored.get(key), copy.deepcopy(self.owners.get(key, {}))
        wanted = dict(leaves(desired))
        if live is not None and request.params.get("force") != "true":
            self._check_conflicts(live, owners, manager, wanted)
        merged = self._merged(live, owners, manager, wanted)
        self._check_immutable(live, merged)
        result = self._admitted(key, merged, live)
        if request.params.get("dryRun") == "All":
            return result
        for other, owned in owners.items():
            if other != manager:
                owned -= {path for path, value in wanted.items() if value_at(live, path) != value}
        owners[manager] = set(wanted)
        self.stored[key], self.owners[key] = result, owners
        self._note_managers(key)
        self.changed(result)
        return self.stored[key]

    def _check_conflicts(
        self,
        live: Manifest,
        owners: Mapping[str, set[FieldPath]],
        manager: str,
        wanted: Mapping[FieldPath, Any],
    ) -> None:
        conflicts = [
            f'conflict with "{other}": .{".".join(map(str, path))}'
            for other, owned in owners.items()
            for path, value in wanted.items()
            if other != manager and path in owned and value_at(live, path) != value
        ]
        if conflicts:
            message = f"Apply failed with {len(conflicts)} conflicts: {'; '.join(conflicts)}"
            raise ApiError(409, "Conflict", message)

    @staticmethod
    def _merged(
        live: Manifest | None,
        owners: Mapping[str, set[FieldPath]],
        manager: str,
        wanted: Mapping[FieldPath, Any],
    ) -> Manifest:
        merged = copy.deepcopy(live) if live is not None else {}
        others = {path for other, owned in owners.items() if other != manager for path in owned}
        # The key of a list's item goes last: without it the item could not be found.
        for path in sorted(owners.get(manager, set()) - set(wanted) - others, key=names_an_item):
            take(merged, path)
        for path, value in wanted.items():
            put(merged, path, value)
        return merged

    @staticmethod
    def _check_immutable(live: Manifest | None, merged: Manifest) -> None:
        for path in IMMUTABLE.get(merged["kind"], ()) if live is not None else ():
            if value_at(live, path) != value_at(merged, path):
                where = ".".join(path)
                kind, name = merged["kind"], merged["metadata"]["name"]
                message = f'{kind} "{name}" is invalid: {where}: field is immutable'
                raise ApiError(422, "Invalid", message)

    def _validate(self, key: Key, manifest: Manifest) -> None:
        if key[1] and ("v1/namespaces", "", key[1]) not in self.stored:
            raise ApiError(404, "NotFound", f'namespaces "{key[1]}" not found')
        found = _faults(json.dumps(manifest, sort_keys=True))
        if found:
            message = f"{manifest['kind']} in version is invalid: {'; '.join(found)}"
            raise ApiError(400, "BadRequest", message)

    def _admitted(self, key: Key, manifest: Manifest, live: Manifest | None) -> Manifest:
        """Fill in what the server fills in."""
        self._serial += 1
        metadata = manifest["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        _default(manifest)
        before = live or {"metadata": {}}
        if live is None or before.get("spec") != manifest.get("spec"):
            metadata["generation"] = before["metadata"].get("generation", 0) + 1
        metadata["resourceVersion"] = str(self._serial)
        return manifest

    def _note_managers(self, key: Key) -> None:
        self.stored[key]["metadata"]["managedFields"] = [
            {
                "manager": manager,
                "operation": "Apply",
                "apiVersion": self.stored[key]["apiVersion"],
                "fieldsType": "FieldsV1",
                "fieldsV1": {},
            }
            for manager in sorted(self.owners[key])
        ]

    def _serve_delete(self, key: Key, request: kmock.Request) -> dict[str, Any]:
        live = self._existing(key)
        wanted = (request.data or {}).get("preconditions", {}).get("uid")
        if wanted not in (None, live["metadata"]["uid"]):
            raise ApiError(409, "Conflict", "the UID in the precondition does not match")
        del self.stored[key]
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _review(self, review: Manifest) -> Manifest:
        attributes = review["spec"]["resourceAttributes"]
        plural = attributes["resource"]
        if "subresource" in attributes:
            plural += f"/{attributes['subresource']}"
        allowed = (attributes["verb"], plural) not in self.forbidden
        return {**review, "status": {"allowed": allowed}}

    def _serve_log(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        key = (
            str(request.name),
            request.params.get("container", ""),
            request.params.get("previous") == "true",
        )
        if key not in self.pod_logs:
            raise ApiError(400, "BadRequest", f"container {key[1]} is waiting to start")
        return aiohttp.web.Response(text=self.pod_logs[key])

    async def _serve_port_forward(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        """One data and one error channel per port, each opened with the port's number."""
        raw = request._raw_request
        assert raw is not None
        if self.forwarded is None:
            raise ApiError(404, "NotFound", f'pods "{request.name}" not found')
        socket = aiohttp.web.WebSocketResponse(protocols=[PORT_FORWARD_PROTOCOL])
        await socket.prepare(raw)
        port = int(request.params["ports"]).to_bytes(2, "little")
        for channel in (b"\0", b"\1"):
            await socket.send_bytes(channel + port)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == b"\0":
                await socket.send_bytes(b"\0" + await self.forwarded(message.data[1:]))
                await socket.close()
        return socket

    def _key_of(self, manifest: Manifest) -> Key:
        for resource, (api_version, kind) in self.kinds.items():
            if (api_version, kind) == (manifest["apiVersion"], manifest["kind"]):
                metadata = manifest["metadata"]
                return resource, metadata.get("namespace", ""), metadata["name"]
        raise AssertionError(f"{manifest['kind']} is not installed")


class FakeServer:
    """Runs a `FakeApi` on a free port, in a thread of its own, while the context is entered."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with self.api, kmock.Server(self.api) as server:
            self.url = str(server.url).rstrip("/")
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the fake API server does not start"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@functools.cache
def _faults(manifest: str) -> list[str]:
    """Faults of an object, looked for once: a release is applied many times over in a test."""
    return faults(json.loads(manifest), KUBERNETES_VERSION)


def _default(manifest: Manifest) -> None:
    """A few of the server's defaults: enough to show that they never look like changes."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("clusterIP", "10.96.0.10")
        for port in spec["ports"]:
            port.setdefault("protocol", "TCP")
    if manifest["kind"] == "Deployment":
        spec.setdefault("progressDeadlineSeconds", 600)
        for container in spec["template"]["spec"]["containers"]:
            container.setdefault("terminationMessagePath", "/dev/termination-log")
    if manifest["kind"] == "Job":
        spec.setdefault("completions", 1)
    if manifest["kind"] == "Secret" and "data" in manifest:
        manifest["data"] = {key: re.sub(r"\s", "", one) for key, one in manifest["data"].items()}


def _labels_match(selector: str, manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    terms = [term.partition("=") for term in filter(None, selector.split(","))]
    return all(labels.get(key) == value for key, _, value in terms)


def _fields_match(selector: str, manifest: Manifest) -> bool:
    terms = [term.partition("=") for term in filter(None, selector.split(","))]
    return all(str(value_at(manifest, tuple(key.split(".")))) == value for key, _, value in terms)
