"""wasi:cli — environment, exit, standard streams. There are no arguments and no terminals."""

from __future__ import annotations

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.output import GuestOutput
from edgehost.abi.values import Ok
from edgehost.errors import GuestExitError
from edgehost.wasi.io import InputStream, OutputStream

__all__ = ["INTERFACES"]

environment = HostInterface("wasi:cli/environment@0.2")
exit_interface = HostInterface("wasi:cli/exit@0.2")
stdin = HostInterface("wasi:cli/stdin@0.2")
stdout = HostInterface("wasi:cli/stdout@0.2")
stderr = HostInterface("wasi:cli/stderr@0.2")
terminal_stdin = HostInterface("wasi:cli/terminal-stdin@0.2")
terminal_stdout = HostInterface("wasi:cli/terminal-stdout@0.2")
terminal_stderr = HostInterface("wasi:cli/terminal-stderr@0.2")


class LineStream(OutputStream):
    """A stream whose bytes end up as lines of the host's log."""

    __slots__ = ("_output",)

    def __init__(self, output: GuestOutput) -> None:
        super().__init__()
        self._output = output

    def write(self, data: bytes) -> None:
        """Emit the lines that `data` completes."""
        self._output.write(data)


@environment.function("get-environment")
def get_environment(guest: Guest) -> list[tuple[str, str]]:
    """The component's environment variables."""
    return list(guest.spec.environment.items())


@environment.function("get-arguments")
def get_arguments(_guest: Guest) -> list[str]:
    """No arguments: a component is not a command."""
    return []


@environment.function("initial-cwd")
def initial_cwd(_guest: Guest) -> str | None:
    """No working directory: there are no files."""
    return None


@exit_interface.function("exit")
def exit_guest(_guest: Guest, status: object) -> None:
    """End the instance."""
    raise GuestExitError(f"the guest exited with status {0 if type(status) is Ok else 1}")


@exit_interface.function("exit-with-code")
def exit_guest_with_code(_guest: Guest, status_code: int) -> None:
    """End the instance."""
    raise GuestExitError(f"the guest exited with status {status_code}")


@stdin.function("get-stdin")
def get_stdin(_guest: Guest) -> InputStream:
    """An empty stream."""
    return InputStream()


@stdout.function("get-stdout")
def get_stdout(guest: Guest) -> OutputStream:
    """Lines of the component's stdout."""
    return LineStream(guest.stdout)


@stderr.function("get-stderr")
def get_stderr(guest: Guest) -> OutputStream:
    """Lines of the component's stderr."""
    return LineStream(guest.stderr)


@terminal_stdin.function("get-terminal-stdin")
@terminal_stdout.function("get-terminal-stdout")
@terminal_stderr.function("get-terminal-stderr")
def no_terminal(_guest: Guest) -> None:
    """Standard streams are never terminals."""


INTERFACES = (
    environment,
    exit_interface,
    stdin,
    stdout,
    stderr,
    terminal_stdin,
    terminal_stdout,
    terminal_stderr,
)
