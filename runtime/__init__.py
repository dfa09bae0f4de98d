"""What operators and the host agent share: an API client, caches fed by kopf, and level-triggered controllers.

The package knows no domain. A process is made of

- `runtime.client.Client`: requests to the apiserver with timeouts, a rate limit and typed errors;
- `runtime.cache.Cache`: what the process has seen of one kind, indexed;
- `runtime.cluster.Cluster`: a client whose writes are seen by its caches at once;
- `runtime.controller.Controller`: a deduplicating queue per key with back-off around one `reconcile(key)`;
- `runtime.process`: kopf as the doorbell, leader election, resync, probes.
"""

from runtime import aio_only as aio_only
