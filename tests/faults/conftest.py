"""The fault tests' fixtures; the long ones under integration/ use them, too."""

from tests.faults.fixtures import (  # noqa: F401
    aio_loop,
    all_backends,
    connect,
    connect_aio,
    connect_sync,
    fleet,
    launch,
    logs,
    no_task_on_the_aio_loop,
)
