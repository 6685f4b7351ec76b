"""The outcome of something that can fail: a code and a sentence for the person on call."""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode

# gRFC A54: codes that belong to the application. The control plane (resolver, policy, call
# credentials) may not speak with them, since a caller could take them for the server's word.
_APPLICATION_ONLY = frozenset(
    {
        StatusCode.OK,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.DATA_LOSS,
    }
)


@dataclass(frozen=True, slots=True)
class Status:
    """A gRPC status. `details` says what failed, where, and what was last seen."""

    code: StatusCode
    details: str

    @classmethod
    def unavailable(cls, details: str) -> Status:
        """The status of everything that a caller may hope to mend by waiting."""
        return cls(StatusCode.UNAVAILABLE, details)

    def from_control_plane(self) -> Status:
        """This status as an RPC may see it when the control plane raised it (gRFC A54)."""
        if self.code not in _APPLICATION_ONLY:
            return self
        return Status(
            StatusCode.INTERNAL,
            f"Illegal status code from control plane: {self.code.name}: {self.details}",
        )

    def __str__(self) -> str:
        return f"{self.code.name}: {self.details}"
