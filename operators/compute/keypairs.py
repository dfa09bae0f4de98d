"""KeyPairs: read as a server would, and fingerprinted."""

from __future__ import annotations

from datetime import datetime

from crds.compute import KeyPair, KeyPairStatus
from operators.compute.reasons import Reason
from operators.compute.sshkey import InvalidKey, parse_public_key
from operators.domain import Context
from operators.status import announce, write_status
from operators.verdict import Verdict, ready, stalled, summarized
from runtime.cache import Key
from runtime.controller import Controller


def plan(key_pair: KeyPair, now: datetime) -> tuple[KeyPairStatus, Verdict]:
    """The status that says what key it is, or why it is none."""
    generation = key_pair.metadata.generation
    try:
        parsed = parse_public_key(key_pair.spec.public_key)
    except InvalidKey as error:
        verdict = stalled(
            Reason.INVALID_KEY, f"spec.publicKey is not usable: {error}. Delete this KeyPair and create a new one."
        )
        found = KeyPairStatus()
    else:
        verdict = ready(Reason.VALID, f"The key is a valid {parsed.type} key of {parsed.bits} bits.")
        found = KeyPairStatus(fingerprint=parsed.fingerprint, type=parsed.type)
    found.observed_generation = generation
    found.conditions = summarized(key_pair.status.conditions, verdict, generation, now)
    return found, verdict


def controller(context: Context) -> Controller:
    cluster = context.cluster
    cache = cluster.watch_resource(KeyPair)

    async def reconcile(key: Key) -> None:
        key_pair = cache.get(key.name, key.namespace)
        if key_pair is None or key_pair.metadata.deletion_timestamp is not None:
            return
        status, verdict = plan(key_pair, context.now())
        if await write_status(cluster, key_pair, status):
            await announce(context.recorder, key_pair, verdict)

    made = Controller("keypair", reconcile, workers=2)
    cache.on_change(lambda key, old, new: made.enqueue(key))
    return made
