"""How commands and files get to a device: the `[reach]` table of a target file, one class per kind."""

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

_KINDS = ("local", "command", "rpc", "emulated")


class _Reach(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: float = Field(default=120.0, gt=0, le=86400)
    """Longest wait for one answer, such as one run of an artefact; a device that needs longer counts as lost."""


class LocalReach(_Reach):
    """The machine that runs qsearch."""

    kind: Literal["local"] = "local"


class CommandReach(_Reach):
    """Two commands of the user's own: ssh, adb, a container, a batch system."""

    kind: Literal["command"]
    copy_command: str = Field(alias="copy")
    """Copies `{source}` here to `{destination}` there, as in `scp -q {source} board:{destination}`."""
    run: str
    """Runs the shell command `{command}` there, with standard streams passed through, as in `ssh board {command}`."""
    folder: str = Field(default="/tmp/qsearch", pattern=r"^/[\w./+-]+$")
    """Folder on the device for what is copied; made if it is absent."""
    retries: int = Field(default=0, ge=0, le=100)
    """Further attempts before the device counts as lost."""

    @field_validator("copy_command", "run")
    @classmethod
    def _has_its_places(cls, value: str, info: Any) -> str:
        places = {"copy_command": {"source", "destination"}, "run": {"command"}}[info.field_name]
        if set(re.findall(r"\{(\w*)\}", value)) != places:
            named = " and ".join(f"{{{place}}}" for place in sorted(places))
            raise ValueError(f"must name {named}, and no other place")
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"is not a command: {error}") from error
        return value


class RpcReach(_Reach):
    """A board that a TVM RPC tracker knows. RPC has no authentication: loopback, a tunnel or a trusted network only."""

    kind: Literal["rpc"]
    tracker: str = Field(default="127.0.0.1:9190", pattern=r"^.+:\d{1,5}$")
    key: str = Field(pattern=r"^[\w.-]+$")
    """The name under which the board's server registered."""
    retries: int = Field(default=1, ge=0, le=100)
    """Further attempts, each on whatever board of this key the tracker gives, before the device counts as lost."""
    emulator: str | None = None
    """Prefix of commands on a server that emulates the target, such as `qemu-aarch64`; never timed."""


class EmulatedReach(_Reach):
    """qemu-user on the machine that runs qsearch: it verifies bytes and is never timed."""

    kind: Literal["emulated"]
    emulator: str | None = None
    """Program; the one of the target's architecture by default."""
    cpu: str = Field(default="max", pattern=r"^[\w.,=+-]+$")
    """Processor that it emulates: one that lacks an instruction stops at it."""


def _kind(value: Any) -> Any:
    return value.get("kind", "local") if isinstance(value, dict) else getattr(value, "kind", None)


Reach = Annotated[
    Annotated[LocalReach, Tag("local")]
    | Annotated[CommandReach, Tag("command")]
    | Annotated[RpcReach, Tag("rpc")]
    | Annotated[EmulatedReach, Tag("emulated")],
    Discriminator(
        _kind, custom_error_type="unknown_kind", custom_error_message=f"unknown kind: choose from {', '.join(_KINDS)}"
    ),
]
"""The `[reach]` table; `kind` decides which keys it has."""
