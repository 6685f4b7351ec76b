"""Why there are no addresses."""

from __future__ import annotations

from grpclb.cli.rules import Rule, always, both, code, says
from grpclb.cli.seen import Seen, Stage

_RESOLVE = (Stage.RESOLVE,)


def _by_dns(seen: Seen) -> bool:
    return seen.scheme == "dns"


def _by_etcd(seen: Seen) -> bool:
    return seen.scheme == "etcd"


RESOLVING: tuple[Rule, ...] = (
    Rule(
        "service-config-unusable",
        _RESOLVE,
        says("grpc_config", "TXT of ", "service config"),
        "Addresses came with a service config that is wrong or could not be read, and the client "
        "has no default to go on with.",
        (
            "Correct it at its source (for DNS: the TXT records of _grpc_config.NAME).",
            "A default (service_config= in programs, --service-config here) keeps clients going.",
        ),
    ),
    Rule(
        "dns-no-such-name",
        _RESOLVE,
        both(_by_dns, says("NXDOMAIN")),
        "The DNS server says that this name does not exist.",
        (
            "Check the spelling and the namespace: from another namespace it is service.namespace.",
            (
                "`kubectl get service -A` lists what there is; a headless Service without a ready "
                "pod has no name in some cluster DNS servers."
            ),
        ),
    ),
    Rule(
        "dns-no-address",
        _RESOLVE,
        both(_by_dns, says("NODATA")),
        "The name exists, but has no addresses.",
        (
            (
                "For a headless Service: no pod is ready. Look at `kubectl get endpointslices "
                "-l kubernetes.io/service-name=NAME` and at the readiness probes."
            ),
            "Check that the Service's selector fits the labels of the pods.",
        ),
    ),
    Rule(
        "dns-server-failed",
        _RESOLVE,
        both(_by_dns, says("SERVFAIL", "REFUSED from", "FORMERR", "NOTIMP")),
        "A DNS server answered, but with an error instead of the name.",
        (
            "Look at that server (in a cluster: the logs of CoreDNS, and its upstream).",
            "Ask it alone: `python -m grpclb resolve dns://SERVER/NAME`.",
        ),
    ),
    Rule(
        "dns-no-answer",
        _RESOLVE,
        both(_by_dns, says("no answer from", "no answer in time")),
        "A DNS server did not answer.",
        (
            (
                "In a cluster: a NetworkPolicy must allow egress to the cluster DNS, port 53, UDP "
                "and TCP."
            ),
            "Check the nameserver lines of /etc/resolv.conf, and that the server runs.",
        ),
    ),
    Rule(
        "dns-unreachable",
        _RESOLVE,
        both(_by_dns, says("refused", "unreachable", "no route", "reset by peer")),
        "The DNS server itself could not be reached.",
        ("Check the nameserver lines of /etc/resolv.conf (or the server in the target).",),
    ),
    Rule(
        "no-such-service",
        _RESOLVE,
        says("there is no Service"),
        "The API server answered, and knows no such Service in that namespace.",
        (
            (
                "Check the spelling and the namespace (`kubectl get service -A`); without one the "
                "target means the client's own."
            ),
        ),
    ),
    Rule(
        "token-refused",
        _RESOLVE,
        says("(401)"),
        "The API server does not know who this client is: its token is missing, old or for "
        "another cluster.",
        (
            (
                "In a pod: is automountServiceAccountToken off, or was the token file copied? It "
                "is replaced about once an hour."
            ),
            "With a kubeconfig: does `kubectl get service` work with the same file and context?",
        ),
    ),
    Rule(
        "forbidden",
        _RESOLVE,
        says("forbidden", "(403)", "permission denied"),
        "The source of the addresses was reached, and does not allow this client to read them.",
        (
            (
                "Kubernetes: the service account needs get, list and watch on endpointslices of "
                "discovery.k8s.io, in the Service's namespace, by a Role and a RoleBinding."
            ),
            "etcd: the user needs read permission on the key prefix.",
        ),
    ),
    Rule(
        "no-credentials",
        _RESOLVE,
        says("no credentials for the API server"),
        "This client found nothing with which to prove to the API server who it is.",
        (
            "In a pod: give it a serviceAccountName, and leave automountServiceAccountToken on.",
            "Outside of a cluster: KUBECONFIG, or ~/.kube/config.",
        ),
    ),
    Rule(
        "api-server-unreachable",
        _RESOLVE,
        says("cannot list endpointslices", "API server"),
        "The API server was not reached, or did not answer as it should.",
        (
            (
                "A NetworkPolicy must allow egress to it; `kubectl get --raw /readyz` says whether "
                "it is well."
            ),
        ),
    ),
    Rule(
        "etcd-unreachable",
        _RESOLVE,
        both(_by_etcd, says("failed to connect", "connection refused", "deadline exceeded")),
        "No member of etcd was reached.",
        (
            (
                "Check the addresses in the target (or GRPCLB_ETCD_ENDPOINTS), and whether etcd "
                "wants TLS."
            ),
        ),
    ),
    Rule(
        "no-such-port",
        _RESOLVE,
        says("no port is named", "have no TCP port"),
        "The Service was found, and it has not the port that the target names.",
        (
            (
                "Write one of the names that the Service gives its ports (`kubectl describe "
                "service NAME`), or the pods' own port number."
            ),
        ),
    ),
    Rule(
        "resolver-silent",
        _RESOLVE,
        code("DEADLINE_EXCEEDED"),
        "The resolver had no answer, good or bad, in {ms}.",
        ("Check that its server can be reached; give it longer with --timeout.",),
    ),
    Rule(
        "no-endpoints",
        _RESOLVE,
        code("OK"),
        "The source of the addresses answered that there are none.",
        (
            (
                "Nothing runs, or nothing is ready: look at the pods and their readiness probes, "
                "or at what the services have registered."
            ),
            "Check the name: a neighbour's empty list looks the same.",
        ),
    ),
    Rule(
        "resolution-failed",
        _RESOLVE,
        always,
        "The target was not resolved.",
        ("The resolver's own words, above, say why.",),
    ),
)
