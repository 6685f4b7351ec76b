"""Four clients, the same pods: a ClusterIP's skew beside headless balancing.

One scenario (`play`), one recording and one report; the pods live in a Kubernetes cluster (`kind`)
or in network namespaces of this machine (`namespaces`). `pod` and `client` are what runs in them.
"""
