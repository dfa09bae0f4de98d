"""Mistakes in Images, KeyPairs and Tenants; kinds that nothing acts on yet."""

from __future__ import annotations

from mistakes.row import Told

OTHERS = (
    Told(
        "ssh key that is cut off",
        "KeyPair cut: {publicKey: $CUT}",
        "KeyPair cut",
        "InvalidKey",
        ("spec.publicKey is not usable: the key is cut off: copy the whole line", "create a new one"),
        "KeyPair cut: {publicKey: $KEY}",
        removed=("KeyPair cut",),
    ),
    Told(
        "image URL that fails",
        "Image gone: {source: {url: $WEB/none}, diskFormat: qcow2}",
        "Image gone",
        "SourceNotFound",
        ("$WEB/none answered 404", "Correct the URL"),
        "Image gone: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image gone",),
    ),
    *(
        Told(
            f"image URL {title}",
            f"Image {name}: {{source: {{url: '{url}'}}, diskFormat: qcow2}}",
            f"Image {name}",
            "SourceUnavailable",
            (url, *words, "trying again"),
            f"Image {name}: {{source: {{url: $WEB/disk}}, diskFormat: qcow2}}",
            removed=(f"Image {name}",),
            stalled=False,
        )
        for name, title, url, words in (
            ("closed", "that nobody listens at", "http://127.0.0.1:9/disk", ("Check the URL and the server",)),
            ("unknown", "of an unknown host", "http://images.invalid/disk", ("Check the URL and the server",)),
            (
                "forged",
                "whose server nobody vouches for",
                "$TLS/disk",
                ("TLS certificate", "together with spec.sha256"),
            ),
        )
    ),
    Told(
        "image URL that redirects to the metadata service",
        "Image ssrf: {source: {url: $WEB/redirect}, diskFormat: qcow2}",
        "Image ssrf",
        "ForbiddenAddress",
        ("169.254.169.254", "link-local", "upload the image"),
        "Image ssrf: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image ssrf",),
    ),
    Told(
        "image with another checksum",
        f"Image sum: {{source: {{url: $WEB/disk}}, diskFormat: qcow2, sha256: '{'0' * 64}'}}",
        "Image sum",
        "ChecksumMismatch",
        ("0" * 64, "$SUM", "spec.sha256"),
        "Image sum: {source: {url: $WEB/disk}, diskFormat: qcow2, sha256: $SUM}",
        removed=("Image sum",),
    ),
    Told(
        "image of another format",
        "Image lie: {source: {url: $WEB/disk}, diskFormat: raw}",
        "Image lie",
        "FormatMismatch",
        ("spec.diskFormat says raw", "are qcow2"),
        "Image lie: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image lie",),
    ),
    Told(
        "copy of a missing image",
        "Image copy: {source: {imageRef: {name: none-img}}, diskFormat: qcow2}",
        "Image copy",
        "ImageNotFound",
        ("There is no Image $T/none-img that this tenant may use. Correct spec.source.imageRef",),
        "Image none-img: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        stalled=False,
    ),
    Told(
        "image from a volume",
        "Image from-volume: {source: {volumeRef: {name: v}}, diskFormat: raw}",
        "Image from-volume",
        "NotSupported",
        ("spec.source.volumeRef is not supported in this release", "Use source.url"),
        "Image from-volume: {source: {url: $WEB/disk}, diskFormat: qcow2}",
        removed=("Image from-volume",),
    ),
    Told(
        "tenant whose namespace is somebody's",
        "Tenant $T-taken: {}",
        "Tenant $T-taken",
        "NamespaceTaken",
        ("Namespace $T-taken exists and is not labelled kumulus.dev/tenant=$T-taken: label it",),
        "Namespace $T-taken: {kumulus.dev/tenant: $T-taken}",
        given="Namespace $T-taken: {}",
    ),
    *(
        Told(
            f"{kind}, which comes later",
            f"{kind} later: {spec}",
            f"{kind} later",
            "NoController",
            (f"{kind} later: this release has no controller for {kind}", "delete it"),
        )
        for kind, spec in (
            ("Volume", "{size: 1Gi}"),
            ("Router", "{}"),
            ("FloatingIP", "{networkRef: {name: net}}"),
            ("ServerGroup", "{policy: AntiAffinity}"),
            ("InstanceAction", "{instanceRef: {name: vm}, action: Reboot}"),
        )
    ),
)
