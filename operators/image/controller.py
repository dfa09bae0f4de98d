"""Reconciles Images: what the planner says, carried out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from crds.conditions import find_condition
from crds.image import Image, ImageStatus
from crds.meta import ObjectRef
from operators.domain import Context
from operators.image.failure import Reason
from operators.image.jobs import Importer
from operators.image.plan import Observed, Plan, Step, plan, plan_deletion, request_of
from operators.image.store import DirectoryStore
from operators.image.uploads import Uploads
from operators.status import write_status
from operators.verdict import READY, STALLED
from runtime.cache import Cache, Key
from runtime.kind import kind_of

FINALIZER = "image.kumulus.dev/operator"
ORIGINAL_INDEX = "image-original"

IMAGE = kind_of(Image)


def original_index(image: Image) -> Iterable[Hashable]:
    """Index of Images that are copies by what they are a copy of."""
    ref = image.spec.source.image_ref
    return [_original(image, ref)] if ref is not None else []


def _original(image: Image, ref: ObjectRef) -> Key:
    return Key(ref.namespace or image.metadata.namespace or "", ref.name)


class ImageReconciler:
    """`reconcile` is the controller's; all state is in the API, in the store and in the importer."""

    def __init__(
        self,
        context: Context,
        images: Cache[Image],
        store: DirectoryStore,
        importer: Importer,
        uploads: Uploads,
    ) -> None:
        self._context = context
        self._images = images
        self._store = store
        self._importer = importer
        self._uploads = uploads

    async def reconcile(self, key: Key) -> float | None:
        image = self._images.get(key.name, key.namespace)
        await self._importer.discard(key, keep_uid=image.metadata.uid if image else None)
        if image is None:
            return None
        if image.metadata.deletion_timestamp is not None:
            await self._delete(image)
            return None
        if FINALIZER not in image.metadata.finalizers:
            await self._context.cluster.add_finalizer(IMAGE, image.metadata.to_dict(), FINALIZER)
            image = self._images.get(key.name, key.namespace) or image
        decided = plan(image, self._observe(image), self._context.settings.image_service_url, self._context.now())
        await self._carry_out(image, decided)
        return decided.again

    def _observe(self, image: Image) -> Observed:
        stored_sha256 = image.status.stored_sha256
        opened = self._store.opened.is_set()
        ref = image.spec.source.image_ref
        original = _original(image, ref) if ref is not None else None
        return Observed(
            job=self._importer.job(image.metadata.uid),
            stored=self._store.blob(stored_sha256) is not None if opened and stored_sha256 is not None else None,
            arrived=opened and self._store.incoming(image.metadata.uid).exists(),
            original=self._images.get(original.name, original.namespace) if original is not None else None,
            trouble=self._importer.trouble,
        )

    async def _carry_out(self, image: Image, decided: Plan) -> None:
        """The order makes each step repeatable: a Secret is there before the status names it, and bytes that came are
        dropped after the status tells of the blob."""
        if Step.OFFER_UPLOAD in decided.steps:
            await self._uploads.offer(image)
        if Step.END_UPLOAD in decided.steps:
            await self._uploads.withdraw(image)
        await self._write(image, decided.status)
        if Step.START in decided.steps:
            self._importer.start(request_of(image))
        if Step.SETTLE in decided.steps:
            self._importer.settle(image.metadata.uid)

    async def _write(self, image: Image, status: ImageStatus) -> None:
        if await write_status(self._context.cluster, image, status):
            await self._tell(image, status)

    async def _tell(self, image: Image, status: ImageStatus) -> None:
        """An Event when the import ended, well or badly."""
        before, after = (find_condition(of.conditions, READY) for of in (image.status, status))
        if after is None or (before is not None and before.reason == after.reason):
            return
        recorder, meta = self._context.recorder, image.metadata.to_dict()
        if after.reason == Reason.ACTIVE:
            await recorder.record(IMAGE, meta, "Imported", "The image was imported and can be used.")
        elif find_condition(status.conditions, STALLED) is not None:
            await recorder.record(IMAGE, meta, after.reason, after.message, action="Import", warning=True)

    async def _delete(self, image: Image) -> None:
        held = plan_deletion(image, self._context.now())
        if held is not None:
            await self._write(image, held)
            return
        key = Key(image.metadata.namespace or "", image.metadata.name)
        await self._importer.discard(key)
        if image.spec.source.upload is not None:
            await self._uploads.withdraw(image)
        await self._context.cluster.remove_finalizer(IMAGE, image.metadata.to_dict(), FINALIZER)
