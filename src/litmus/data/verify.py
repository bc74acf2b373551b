"""Every file of a data set looked at again: what was decoded once is believed until somebody asks."""

from __future__ import annotations

import time

from litmus.data.datamodule import ImageDataModule
from litmus.data.decode import FileImages
from litmus.data.sources.torchvision_sets import TABLE, compare_published
from litmus.errors import Refused


def verify_files(data: ImageDataModule) -> list[str]:
    """Decode every image of the data and compare published digests; what was found, a sentence a line.

    Images that were decoded just now, for a cache that was not there, are not decoded twice. Array files (IDX, CIFAR)
    were read whole when ``data`` was prepared: magic numbers, counts and gzip's checksums held.

    Raises:
        Refused: every file that does not decode (path, index, reason), or no longer decodes to what the cache holds;
            every file whose digest is not the published one.
    """
    info = data.info
    lines, problems = [], []
    sets = {id(images): images for images in (data.images(split) for split in ("train", "val", "test"))}
    of_files = [images for images in sets.values() if isinstance(images, FileImages)]
    elapsed_sec = 0.0
    for images in of_files:
        if images.decoded_sec is not None:
            elapsed_sec += images.decoded_sec
            continue
        started = time.monotonic()
        problems += images.verify()
        elapsed_sec += time.monotonic() - started
    if data.request.name in TABLE:
        published, wrong = compare_published(data.request)
        lines += published
        problems += wrong
    if problems:
        raise Refused(problems, source=info.source)
    if of_files:
        num = sum(map(len, of_files))
        lines.insert(
            0, f"{num:,} image files decoded in {elapsed_sec:.1f} s, {num / max(elapsed_sec, 1e-9):,.0f} a second"
        )
    else:
        num = sum(map(len, sets.values()))
        lines.insert(0, f"no image files: {num:,} images in memory, from {info.source}")
    return lines
