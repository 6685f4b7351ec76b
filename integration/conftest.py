"""The fixtures and guards of tests/, for the fault tests that take longer."""

from integration.etcd.fixtures import etcd, installs, own_etcd, run_service, service  # noqa: F401
from integration.xds.fixtures import side, xds_world  # noqa: F401
from tests.conftest import (  # noqa: F401
    expect_log,
    no_task_left_behind,
    nothing_left_behind,
    pytest_configure,
)
from tests.faults.conftest import *  # noqa: F403
