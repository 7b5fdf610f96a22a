"""The built-in renderer: alike to kubectl where kubectl is, and clear about what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from k8s.rendered import (
    COMBINATIONS,
    OVERLAYS,
    SPINKUBE,
    component_pairs,
    write_combination,
)
from kustomization import KustomizationError, Manifest, UnsupportedFieldError, render
from kustomization.loading import parse_documents

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not on PATH: nothing to compare with"
)

WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {tier: front}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{key: a, operator: Exists}]
      containers:
        - name: web
          image: localhost:5000/shop/web:1.0
          args: [--one, --two]
          env: [{name: A, value: "1"}, {name: B, value: "2"}]
          envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: keys}}]
          volumeMounts: [{name: data, mountPath: /data}, {name: tmp, mountPath: /tmp}]
        - name: sidecar
          image: shop/sidecar@sha256:aaaa
      volumes:
        - name: data
          configMap: {name: settings}
        - name: tmp
          emptyDir: {}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 8081}]
"""
STATEFUL = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec: {containers: [{name: store, image: store}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}]
"""
BASE = f"{WORKLOAD}---{SERVICE}---{STATEFUL}"

CASES = {
    "namespace-labels-annotations": """
namespace: shop
labels:
  - pairs: {owner: us}
    includeTemplates: true
  - pairs: {only: metadata}
commonAnnotations: {note: hello}
""",
    "images": """
images:
  - {name: localhost:5000/shop/web, newTag: "2.0"}
  - {name: shop/sidecar, newName: registry.example.com/sidecar, digest: sha256:bbbb}
  - {name: store, newName: valkey, newTag: "8"}
""",
    "image-renamed-keeps-its-tag": """
images: [{name: localhost:5000/shop/web, newName: other/web}]
""",
    "replicas": "replicas: [{name: web, count: 7}]",
    "generators": """
configMapGenerator:
  - name: settings
    literals: [A=1, 'B="quoted"', "C=x=y<>&"]
    files: [note.txt, renamed=note.txt]
    envs: [values.env]
    options: {labels: {made: here}, annotations: {why: test}, immutable: true}
  - name: unhashed
    literals: [K=V]
    options: {disableNameSuffixHash: true}
secretGenerator:
  - name: keys
    type: kubernetes.io/basic-auth
    literals: [password=hunter2]
    files: [long=long.txt]
generatorOptions: {labels: {all: generated}}
""",
    "binary-config": "configMapGenerator: [{name: settings, files: [binary.bin]}]",
    "json-patches": """
patches:
  - target: {kind: Deployment, name: we.}
    patch: |
      - {op: test, path: /spec/replicas, value: 1}
      - {op: replace, path: /spec/replicas, value: 3}
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --three}
      - {op: add, path: /spec/template/spec/containers/0/args/0, value: --zero}
      - {op: remove, path: /spec/template/spec/tolerations}
      - {op: add, path: /metadata/annotations, value: {a~b/c: "1"}}
      - {op: replace, path: /metadata/annotations/a~0b~1c, value: "2"}
      - {op: copy, from: /metadata/labels/tier, path: /metadata/labels/level}
      - {op: move, from: /metadata/labels/tier, path: /metadata/labels/rank}
""",
    "strategic-merge": """
patches:
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: null
        template:
          spec:
            tolerations: [{key: b, operator: Exists}]
            containers:
              - name: extra
                image: extra
              - name: web
                args: [--only]
                env: [{name: B, value: changed}, {name: C, value: "3"}]
                volumeMounts: [{name: more, mountPath: /tmp}]
            volumes:
              - name: data
                configMap: null
                secret: {secretName: keys}
""",
    "strategic-deletes": """
patches:
  - patch: |
      apiVersion: v1
      kind: Service
      metadata: {name: web}
      $patch: delete
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        template:
          spec:
            containers:
              - {name: sidecar, $patch: delete}
              - name: web
                env: [{name: A, $patch: delete}]
""",
    "strategic-replace": """
patches:
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        template:
          spec:
            containers:
              - {name: alone, image: alone}
              - $patch: replace
            volumes: null
""",
    "service-ports-merge-by-port": """
patches:
  - patch: |
      apiVersion: v1
      kind: Service
      metadata: {name: web}
      spec: {ports: [{port: 81, targetPort: 9091}]}
""",
    "selectors": """
patches:
  - target: {labelSelector: "tier=front"}
    patch: |
      - {op: add, path: /metadata/labels/chosen, value: by-label}
  - target: {kind: "Service|StatefulSet", group: "", version: v1}
    patch: |
      - {op: add, path: /metadata/annotations, value: {chosen: by-kind}}
  - target: {kind: ConfigMap}
    patch: |
      - {op: remove, path: /no/such/object}
""",
    "strings-that-look-otherwise": """
configMapGenerator: [{name: settings, literals: ["on=yes", "when=2026-01-01", "number=1e3"]}]
commonAnnotations: {answer: "yes", octal: "0440", date: "2026-01-01", null-like: "null"}
""",
}


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def case_tree(root: Path, fields: str) -> Path:
    return write_tree(
        root,
        {
            "kustomization.yaml": f"resources: [base.yaml]\n{fields}",
            "base.yaml": BASE,
            "note.txt": "a note\n",
            "long.txt": "x" * 200,
            "values.env": "# a comment\n\nX=1\n  Y = spaced\nEMPTY=\nBARE\n",
            "binary.bin": bytes(range(256)),
        },
    )


def by_identity(manifests: list[Manifest]) -> dict[tuple[str, ...], Manifest]:
    return {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
        for one in manifests
    }


def kubectl(directory: Path) -> list[Any]:
    command = ["kubectl", "kustomize", str(directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return parse_documents(done.stdout, "kubectl")


@needs_kubectl
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_render_feature_equals_kubectl(fields: str, tmp_path: Path) -> None:
    directory = case_tree(tmp_path, fields)
    assert by_identity(render(directory)) == by_identity(kubectl(directory))


PLACED = SERVICE.replace("{name: web}", "{name: web, namespace: theirs}")


@pytest.mark.parametrize(
    ("moved", "named", "found"),
    [
        ("", "", False),
        ("", "namespace: theirs", True),
        ("namespace: shop", "", False),
        ("namespace: shop", "namespace: theirs", True),
        ("namespace: shop", "namespace: shop", True),
        ("namespace: shop", "namespace: elsewhere", False),
    ],
)
def test_render_patch_must_name_a_namespace_that_the_object_has_or_had(
    moved: str, named: str, found: bool, tmp_path: Path
) -> None:
    write_tree(
        tmp_path,
        {
            "base/kustomization.yaml": f"resources: [s.yaml]\n{moved}\n",
            "base/s.yaml": PLACED,
            "kustomization.yaml": "resources: [base]\npatches: [{path: p.yaml}]\n",
            "p.yaml": f"apiVersion: v1\nkind: Service\nmetadata: {{name: web, {named}}}\n"
            "spec: {type: ClusterIP}\n",
        },
    )
    if found:
        (service,) = render(tmp_path)
        assert service["spec"]["type"] == "ClusterIP"
    else:
        with pytest.raises(KustomizationError, match="the patch names Service 'web'"):
            render(tmp_path)
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (done.returncode == 0) is found


@needs_kubectl
@pytest.mark.parametrize(
    "name", ["base", *(f"overlays/{o}" for o in OVERLAYS), *(f"tests/{c}" for c in COMBINATIONS)]
)
def test_render_deployment_equals_kubectl(name: str) -> None:
    assert by_identity(render(SPINKUBE / name)) == by_identity(kubectl(SPINKUBE / name))


@needs_kubectl
@pytest.mark.parametrize("pair", component_pairs(), ids="+".join)
def test_render_component_pair_equals_kubectl(pair: tuple[str, ...], tmp_path: Path) -> None:
    directory = write_combination(tmp_path, pair)
    assert by_identity(render(directory)) == by_identity(kubectl(directory))


LAYERS: dict[str, str | bytes] = {
    "base/kustomization.yaml": "resources: [w.yaml]\nconfigMapGenerator: "
    "[{name: settings, literals: [A=1, B=2]}]\n",
    "base/w.yaml": WORKLOAD,
    "plus/kustomization.yaml": "kind: Component\nconfigMapGenerator: "
    "[{name: settings, behavior: merge, literals: [B=3, C=4]}]\n",
    "instead/kustomization.yaml": "kind: Component\nconfigMapGenerator: "
    "[{name: settings, behavior: replace, literals: [Z=9]}]\n",
    "merged/kustomization.yaml": "resources: [../base]\ncomponents: [../plus]\n",
    "replaced/kustomization.yaml": "resources: [../base]\ncomponents: [../plus, ../instead]\n",
}


@pytest.mark.parametrize(
    ("overlay", "data"),
    [("merged", {"A": "1", "B": "3", "C": "4"}), ("replaced", {"Z": "9"})],
)
def test_render_component_changes_a_generated_map_and_its_references(
    overlay: str, data: dict[str, str], tmp_path: Path
) -> None:
    write_tree(tmp_path, LAYERS)
    found = {one["kind"]: one for one in render(tmp_path / overlay)}
    assert found["ConfigMap"]["data"] == data
    spec = found["Deployment"]["spec"]["template"]["spec"]
    assert spec["volumes"][0]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    if shutil.which("kubectl"):
        directory = tmp_path / overlay
        assert by_identity(render(directory)) == by_identity(kubectl(directory))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, KustomizationError, "no kustomization.yaml in this directory"),
        (
            {"kustomization.yaml": "helmCharts: []"},
            UnsupportedFieldError,
            "`helmCharts` is not supported by the built-in renderer",
        ),
        (
            {"kustomization.yaml": "patches: [{patch: '', options: {}}]"},
            UnsupportedFieldError,
            "`patches.options` is not supported",
        ),
        ({"kustomization.yaml": "resources: x"}, KustomizationError, "`resources` has the wrong"),
        (
            {"kustomization.yaml": "resources: [gone.yaml]"},
            KustomizationError,
            "gone.yaml: cannot be read: No such file",
        ),
        (
            {"kustomization.yaml": "resources: [a.yaml]", "a.yaml": "kind: {"},
            KustomizationError,
            "is not valid YAML",
        ),
        (
            {"kustomization.yaml": "resources: [a.yaml]", "a.yaml": "kind: Pod"},
            KustomizationError,
            "without `apiVersion`",
        ),
        (
            {"kustomization.yaml": "resources: [a.yaml]", "a.yaml": f"{SERVICE}---{SERVICE}"},
            KustomizationError,
            "Service 'web' is already there",
        ),
        (
            {
                "kustomization.yaml": "resources: [a.yaml]\npatches: [{patch: "
                "'[{op: remove, path: /spec/no}]', target: {kind: Service}}]",
                "a.yaml": SERVICE,
            },
            KustomizationError,
            "Service web: cannot remove '/spec/no': no such path",
        ),
        (
            {
                "kustomization.yaml": "patches: [{patch: 'apiVersion: v1\n\nkind: Pod\n\n"
                "metadata: {name: x}'}]"
            },
            KustomizationError,
            "the patch names Pod 'x': 0 such objects",
        ),
        (
            {"kustomization.yaml": "configMapGenerator: [{name: x, behavior: merge}]"},
            KustomizationError,
            "cannot merge ConfigMap 'x': 0 found",
        ),
        (
            {"kustomization.yaml": "configMapGenerator: [{name: x, files: [../secret]}]"},
            KustomizationError,
            "is not in or below this folder",
        ),
        ({"kustomization.yaml": "resources: [.]"}, KustomizationError, "nested more than 20 deep"),
        ({"kustomization.yaml": "components: [.]"}, KustomizationError, "takes Components"),
    ],
)
def test_render_broken_kustomization_names_file_and_fault(
    files: dict[str, str | bytes], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        render(write_tree(tmp_path, files))
    assert message in str(raised.value)
    assert str(tmp_path.name) in str(raised.value)
