"""Images: their import from URLs and uploads, the store of their bytes, and the service that nodes fetch them from."""

from __future__ import annotations

from crds.image import Image
from crds.node import NodeInstance
from operators.domain import Context, Domain
from operators.image.collect import Collector
from operators.image.controller import ORIGINAL_INDEX, ImageReconciler, original_index
from operators.image.convert import ConvertLimits
from operators.image.fetch import FetchLimits
from operators.image.jobs import Importer
from operators.image.policy import AddressPolicy
from operators.image.service import BLOB_INDEX, ImageService, Listen, blob_index
from operators.image.store import DirectoryStore
from operators.image.uploads import Uploads
from runtime.cache import Key
from runtime.controller import Controller

__all__ = ["build"]


def build(context: Context) -> Domain:
    """The domain: one controller, and three tasks (imports, collection of unused blobs, the service)."""
    settings = context.settings
    images = context.cluster.watch_resource(Image, {ORIGINAL_INDEX: original_index})
    instances = context.cluster.watch_resource(NodeInstance, {BLOB_INDEX: blob_index})

    store = DirectoryStore(settings.image_store)
    importer = Importer(
        store,
        AddressPolicy(settings.forbidden_cidrs, settings.allowed_import_cidrs),
        FetchLimits(max_size=settings.image_max_size),
        ConvertLimits(settings.image_max_virtual_size, settings.image_max_size),
        slots=settings.image_imports,
        on_change=lambda key: controller.enqueue(key),
        on_open=lambda: enqueue_all(),
        now=context.now,
    )
    uploads = Uploads(context.cluster, settings.image_service_url, settings.image_service_cert.with_name("ca.crt"))
    listen = Listen(
        settings.image_service_listen, settings.image_service_cert, settings.image_service_key, settings.client_ca
    )
    service = ImageService(listen, store, importer, uploads, instances)
    collector = Collector(store, images, instances, context.now, settings.image_blob_grace)
    controller = Controller("image", ImageReconciler(context, images, store, importer, uploads).reconcile)

    def enqueue_all() -> None:
        for image in images:
            controller.enqueue(Key(image.metadata.namespace or "", image.metadata.name))

    def image_changed(key: Key, old: Image | None, new: Image | None) -> None:
        controller.enqueue(key)
        for copy in images.find(ORIGINAL_INDEX, key):
            controller.enqueue(Key(copy.metadata.namespace or "", copy.metadata.name))

    images.on_change(image_changed)
    return Domain("image", [controller], [importer.run, collector.run, service.run])
