"""What a cluster serves: the built-in kinds that a release meets, and those of add-ons."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ADD_ONS", "BUILT_IN"]

# Kind, plural and whether it lives in namespaces, per API.
BUILT_IN: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "v1": {
        "Namespace": ("namespaces", False),
        "Node": ("nodes", False),
        "Pod": ("pods", True),
        "Service": ("services", True),
        "ServiceAccount": ("serviceaccounts", True),
        "Secret": ("secrets", True),
        "ConfigMap": ("configmaps", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
        "Event": ("events", True),
    },
    "apps/v1": {
        "Deployment": ("deployments", True),
        "StatefulSet": ("statefulsets", True),
        "DaemonSet": ("daemonsets", True),
    },
    "batch/v1": {"Job": ("jobs", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "autoscaling/v2": {"HorizontalPodAutoscaler": ("horizontalpodautoscalers", True)},
    "networking.k8s.io/v1": {
        "NetworkPolicy": ("networkpolicies", True),
        "Ingress": ("ingresses", True),
        "IngressClass": ("ingressclasses", False),
    },
    "node.k8s.io/v1": {"RuntimeClass": ("runtimeclasses", False)},
    "storage.k8s.io/v1": {"StorageClass": ("storageclasses", False)},
    "authorization.k8s.io/v1": {"SelfSubjectAccessReview": ("selfsubjectaccessreviews", False)},
}
ADD_ONS: Mapping[str, Mapping[str, Mapping[str, tuple[str, bool]]]] = {
    "spin-operator": {
        "core.spinkube.dev/v1alpha1": {
            "SpinApp": ("spinapps", True),
            "SpinAppExecutor": ("spinappexecutors", True),
        }
    },
    "runtime-class-manager": {"runtime.spinkube.dev/v1alpha1": {"Shim": ("shims", False)}},
    "cert-manager": {"cert-manager.io/v1": {"Certificate": ("certificates", True)}},
    "keda": {"keda.sh/v1alpha1": {"ScaledObject": ("scaledobjects", True)}},
    "prometheus-operator": {
        "monitoring.coreos.com/v1": {
            "ServiceMonitor": ("servicemonitors", True),
            "PrometheusRule": ("prometheusrules", True),
        }
    },
    "gateway-api": {
        "gateway.networking.k8s.io/v1": {
            "Gateway": ("gateways", True),
            "HTTPRoute": ("httproutes", True),
        }
    },
    "metrics-server": {"metrics.k8s.io/v1beta1": {"PodMetrics": ("pods", True)}},
}
