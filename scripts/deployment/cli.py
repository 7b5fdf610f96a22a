"""The command line: `scripts/deploy.py COMMAND [OVERLAY]`.

Exit codes: 0 well; 1 a fault that the message explains; 2 wrong usage; 3 `plan --exit-code` found
changes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kustomization import Manifest

from .clock import Clock, SystemClock
from .cluster import Cluster
from .console import Console
from .credentials import (
    api_keys_secret,
    chat_upstream_secret,
    create_secrets,
    store_secrets_wanted,
    write_secret,
)
from .doctor import Level, examine
from .errors import DeploymentError, HistoryError, PreconditionError
from .history import History, Revision
from .objects import Ref
from .planning import Action, Plan, ensure_applicable, make_plan
from .release import add_checksums, namespace_of, placeholders, prepare
from .rollout import Options, roll_out
from .smoke import smoke
from .status import show_status

__all__ = ["main"]

CHANGES_FOUND = 3
DEFAULT_NAMESPACE = "inference-anywhere"
APP = "inference-anywhere"


@dataclass(frozen=True, slots=True)
class Context:
    """What every command works with."""

    arguments: argparse.Namespace
    console: Console
    clock: Clock
    resources: contextlib.ExitStack

    def cluster(self) -> Cluster:
        """The cluster that the command line names; closed when the command ends."""
        cluster = Cluster.connect(self.arguments.kubeconfig, self.arguments.context)
        self.resources.callback(cluster.close)
        return cluster

    def manifests(self) -> list[Manifest]:
        """The release that the command line names."""
        images = dict(_image(one) for one in self.arguments.image)
        return prepare(self.arguments.overlay, images)


def main(
    arguments: Sequence[str] | None = None,
    *,
    console: Console | None = None,
    clock: Clock | None = None,
) -> int:
    """Run one command; return its exit code."""
    console = console or Console(sys.stdout)
    parsed = _parser().parse_args(arguments)
    try:
        with contextlib.ExitStack() as resources:
            code: int = parsed.run(Context(parsed, console, clock or SystemClock(), resources))
    except DeploymentError as exc:
        console.bad(f"error: {exc}")
        return 1
    except KeyboardInterrupt:
        console.bad("interrupted: what was applied stays; `scripts/deploy.py status` shows it")
        return 130
    return code


def _render(context: Context) -> int:
    context.console.say(yaml.safe_dump_all(context.manifests(), sort_keys=False).rstrip())
    return 0


def _plan(context: Context) -> int:
    cluster, manifests = context.cluster(), context.manifests()
    plan = _planned(context, cluster, manifests)
    _show_plan(context, plan)
    if context.arguments.exit_code and (plan.pending or plan.blocked):
        return CHANGES_FOUND
    return 0


def _apply(context: Context) -> int:
    cluster, manifests = context.cluster(), context.manifests()
    plan = _planned(context, cluster, manifests)
    # Before the plan is shown: where nothing will be done, only the reasons matter.
    ensure_applicable(plan)
    _show_plan(context, plan, diffs=False)
    namespace = namespace_of(manifests)
    revision = _rolled_out(context, cluster, plan, context.arguments.overlay, namespace)
    context.console.good(f"revision {revision.number} is deployed")
    return 0


def _rollback(context: Context) -> int:
    cluster, namespace = context.cluster(), context.arguments.namespace
    history = History(cluster, namespace)
    revisions = history.revisions()
    if not revisions:
        raise HistoryError(f"nothing was deployed to {namespace} by this program")
    latest = revisions[0]
    wanted = context.arguments.to
    target = history.before(latest) if wanted is None else history.find(wanted)
    manifests = list(target.manifests)
    add_checksums(manifests, cluster)
    plan = make_plan(cluster, manifests, history.applied(), force=context.arguments.force_conflicts)
    ensure_applicable(plan)
    context.console.say(f"back to revision {target.number} ({target.overlay}):")
    _show_plan(context, plan, diffs=False)
    label = f"{target.overlay} (as revision {target.number})"
    revision = _rolled_out(context, cluster, plan, label, namespace)
    context.console.good(f"revision {revision.number} is deployed: as revision {target.number} was")
    return 0


def _status(context: Context) -> int:
    ready = show_status(context.cluster(), context.arguments.namespace, context.console)
    return 0 if ready else 1


def _smoke(context: Context) -> int:
    arguments = context.arguments
    key = None if arguments.api_key_file is None else _read(arguments.api_key_file).strip()
    count = smoke(context.cluster(), arguments.namespace, APP, context.console, api_key=key)
    context.console.good(f"{count} calls of the README answered")
    return 0


def _secrets(context: Context) -> int:
    cluster, manifests = context.cluster(), context.manifests()
    namespace = namespace_of(manifests)
    for manifest in manifests:
        if manifest["kind"] == "Namespace" and cluster.find(Ref.of(manifest)) is None:
            cluster.apply(manifest)
    given = (
        (context.arguments.api_keys, api_keys_secret),
        (context.arguments.chat_upstream_key, chat_upstream_secret),
    )
    for path, make in given:
        if path is not None:
            secret = make(namespace, _read(path))
            write_secret(cluster, secret)
            context.console.good(f"  + {Ref.of(secret)} written")
    if not store_secrets_wanted(manifests):
        context.console.say("the overlay holds the store's secrets itself: none are made")
        return 0
    names = create_secrets(cluster, namespace, rotate=context.arguments.rotate)
    for name in names:
        context.console.good(f"  + Secret/{name} written")
    if not names:
        context.console.say("the store's secrets are there; `--rotate` makes new ones")
    elif context.arguments.rotate:
        context.console.warn("run `scripts/deploy.py apply` now: pods still hold the old password")
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise PreconditionError(f"{path} cannot be read: {exc}") from exc


def _doctor(context: Context) -> int:
    findings = examine(context.cluster(), context.manifests())
    for one in findings:
        line = f"{one.level.value:8}{one.subject}: {one.message}"
        if one.level is Level.OK:
            context.console.good(line)
        elif one.level is Level.WARNING:
            context.console.warn(line)
        else:
            context.console.bad(line)
        if one.fix:
            context.console.say(f"        -> {one.fix}")
    missing = sum(one.level is Level.MISSING for one in findings)
    context.console.say()
    if missing:
        context.console.bad(f"{missing} things are missing")
        return 1
    context.console.good("nothing is missing")
    return 0


def _planned(context: Context, cluster: Cluster, manifests: list[Manifest]) -> Plan:
    arguments, namespace = context.arguments, namespace_of(manifests)
    examples = placeholders(manifests)
    add_checksums(manifests, cluster)
    plan = make_plan(
        cluster,
        manifests,
        _applied(cluster, namespace),
        adopt=arguments.adopt,
        force=arguments.force_conflicts,
    )
    return Plan(plan.changes, [*examples, *plan.problems])


def _applied(cluster: Cluster, namespace: str) -> list[Ref]:
    if cluster.find(Ref("v1", "Namespace", "", namespace)) is None:
        return []
    return History(cluster, namespace).applied()


def _rolled_out(
    context: Context, cluster: Cluster, plan: Plan, label: str, namespace: str
) -> Revision:
    arguments = context.arguments
    force = arguments.force_conflicts or getattr(arguments, "adopt", False)
    return roll_out(
        cluster,
        plan,
        label,
        namespace,
        options=Options(timeout_s=arguments.timeout, force=force),
        clock=context.clock,
        console=context.console,
    )


def _show_plan(context: Context, plan: Plan, *, diffs: bool = True) -> None:
    console = context.console
    for change in plan.changes:
        if change.action is Action.UNCHANGED:
            continue
        note = f"  ({change.note})" if change.note else ""
        line = f"{change.action.value} {change.ref}{note}"
        if change.action is Action.BLOCKED:
            console.bad(line)
        else:
            console.say(line)
        if diffs and change.action in (Action.UPDATE, Action.REPLACE):
            for diff in change.diff:
                console.say(f"    {diff}")
    for problem in plan.problems:
        console.bad(f"! {problem}")
    counts = dict.fromkeys(Action, 0)
    for change in plan.changes:
        counts[change.action] += 1
    shown = [f"{count} {_COUNTED[action]}" for action, count in counts.items() if count]
    console.say(", ".join(shown) or "nothing to do")


_COUNTED = {
    Action.CREATE: "to create",
    Action.UPDATE: "to update",
    Action.REPLACE: "to replace",
    Action.PRUNE: "to delete",
    Action.UNCHANGED: "unchanged",
    Action.KEEP: "left alone",
    Action.BLOCKED: "blocked",
}


def _image(text: str) -> tuple[str, str]:
    name, separator, reference = text.partition("=")
    if not separator or not name or not reference:
        raise PreconditionError(f"--image {text}: write NAME=REFERENCE, as edge=ghcr.io/me/edge:1")
    return name, reference


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/deploy.py",
        description="Take Inference Anywhere to a Kubernetes cluster with SpinKube.",
    )
    parser.add_argument("--kubeconfig", help="the kubeconfig file (default: as kubectl)")
    parser.add_argument("--context", help="the kubeconfig's context (default: the current one)")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[Context], int], summary: str, *options: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run)
        for option in options:
            _OPTIONS[option](added)
        return added

    command("doctor", _doctor, "say what the cluster lacks, and how to fix it", "overlay", "image")
    command("render", _render, "print the objects of an overlay", "overlay", "image")
    added = command("secrets", _secrets, "create the secrets no file holds", "overlay", "image")
    added.add_argument("--rotate", action="store_true", help="make new ones")
    added.add_argument("--api-keys", metavar="FILE", help="tenants and digests of keys, as JSON")
    added.add_argument(
        "--chat-upstream-key", metavar="FILE", help="the token for the server at chat_upstream_url"
    )
    release = ("overlay", "image", "force", "adopt")
    added = command("plan", _plan, "show what apply would change; change nothing", *release)
    added.add_argument("--exit-code", action="store_true", help=f"{CHANGES_FOUND} if changes")
    command("apply", _apply, "apply an overlay and wait until it is ready", *release, "timeout")
    command("status", _status, "show what runs", "namespace")
    earlier = ("namespace", "force", "timeout")
    added = command("rollback", _rollback, "apply an earlier revision again", *earlier)
    added.add_argument("--to", type=int, metavar="N", help="this one (default: the last good)")
    added = command("smoke", _smoke, "run the README's calls against the cluster", "namespace")
    added.add_argument("--api-key-file", metavar="FILE", help="send the key in this file")
    return parser


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], object]] = {
    "overlay": lambda parser: parser.add_argument(
        "overlay", help="a name under spinkube/overlays, or a directory of yours"
    ),
    "image": lambda parser: parser.add_argument(
        "--image", action="append", default=[], metavar="NAME=REFERENCE", help="use this image"
    ),
    "namespace": lambda parser: parser.add_argument(
        "--namespace", default=DEFAULT_NAMESPACE, help=f"default {DEFAULT_NAMESPACE}"
    ),
    "force": lambda parser: parser.add_argument(
        "--force-conflicts", action="store_true", help="take fields over from other managers"
    ),
    "adopt": lambda parser: parser.add_argument(
        "--adopt", action="store_true", help="take over objects that are not ours"
    ),
    "timeout": lambda parser: parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="to wait for (default 600)"
    ),
}
