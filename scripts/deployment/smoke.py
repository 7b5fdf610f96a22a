"""Runs the README's calls against the deployed application, through a forwarded port."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .cluster import Cluster
from .console import Console
from .diagnosis import diagnose
from .errors import PreconditionError, SmokeError
from .forwarding import forward
from .objects import Ref

__all__ = ["readme_calls", "smoke"]

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL_EDGE = "127.0.0.1:3000"
EDGE_PORT = 80
CALL_TIMEOUT_S = 20
SHOWN_CHARACTERS = 300

_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"[!#-\[\]-~]+")
_INDENTED = re.compile(r"^(?: {4}.*\n)+", re.MULTILINE)


def readme_calls(text: str) -> list[list[str]]:
    """The curl commands in a document's code blocks that address the local edge, as arguments.

    Only plain calls: a line with a pipe, a redirection or a substitution needs a shell and is left
    out.
    """
    blocks = [match[1] for match in _FENCED.finditer(text)]
    blocks += [match[0] for match in _INDENTED.finditer(_FENCED.sub("", text))]
    calls = []
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ")
            if not command.startswith("curl ") or LOCAL_EDGE not in command:
                continue
            lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>()$`")
            lexer.whitespace_split = True
            lexer.commenters = "#"
            arguments = list(lexer)
            if not any(set(one) <= set("|&;<>()$`") for one in arguments):
                calls.append(arguments)
    return calls


def smoke(
    cluster: Cluster, namespace: str, app: str, console: Console, *, api_key: str | None = None
) -> int:
    """Make every call of the README; return how many there were.

    Args:
        cluster: Where.
        namespace: The release's.
        app: The SpinApp's name.
        console: Where commands and answers are shown; the key is not.
        api_key: Sent with every call, where the edge has tenants.

    Raises:
        PreconditionError: There is no curl, no README call, or no ready pod; or the key is none.
        SmokeError: A call failed; the message shows the command and the answer.
    """
    if shutil.which("curl") is None:
        raise PreconditionError("curl is not on PATH, and the README's calls are curl calls")
    if api_key is not None and not _KEY.fullmatch(api_key):
        raise PreconditionError("the API key is none: one line of printable characters, no spaces")
    pod = _ready_pod(cluster, namespace, app)
    calls = readme_calls((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    if not calls:
        raise PreconditionError(f"README.md has no curl call to {LOCAL_EDGE}")
    with forward(cluster, namespace, pod, EDGE_PORT) as port:
        for arguments in calls:
            here = [one.replace(LOCAL_EDGE, f"127.0.0.1:{port}") for one in arguments]
            _call(here, console, api_key)
    return len(calls)


def _ready_pod(cluster: Cluster, namespace: str, app: str) -> str:
    like = Ref("v1", "Pod", namespace, "")
    for pod in cluster.select(like, labels=f"core.spinkube.dev/app-name={app}"):
        conditions = pod.get("status", {}).get("conditions") or ()
        if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            return str(pod["metadata"]["name"])
    reasons = diagnose(cluster, Ref("core.spinkube.dev/v1alpha1", "SpinApp", namespace, app))
    detail = "".join(f"\n    {line}" for line in reasons)
    raise PreconditionError(f"no pod of {app} is ready in {namespace}:{detail}")


def _call(arguments: Sequence[str], console: Console, api_key: str | None) -> None:
    # --fail-with-body: an error status is a failure, and its body says which. The key goes in by
    # standard input: arguments are for everybody on the machine to see.
    command = ["curl", "--fail-with-body", "--silent", "--show-error", "--config", "-"]
    config = f'header = "Authorization: Bearer {api_key}"\n' if api_key else ""
    try:
        done = subprocess.run(
            [*command, *arguments[1:]],
            cwd=REPOSITORY,
            input=config.encode(),
            capture_output=True,
            timeout=CALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        shown = shlex.join(arguments)
        raise SmokeError(f"{shown}\n  no answer within {CALL_TIMEOUT_S} s") from exc
    output = done.stdout.decode(errors="replace").strip()[:SHOWN_CHARACTERS]
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip()
        if " 401" in complaint:
            complaint += "\n  the edge has tenants: --api-key-file FILE sends a key with each call"
        raise SmokeError(f"{shlex.join(arguments)}\n  {complaint}\n  {output}")
    console.good(f"  {shlex.join(arguments)}")
    console.say(f"    {output}")
