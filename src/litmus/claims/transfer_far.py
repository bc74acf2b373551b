"""The claim on transfer from far away: ImageNet's features for images that are no photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.claims.base import Table, cell_name
from litmus.claims.evidence import Evidence, lower_on_average, mean_of, reported
from litmus.claims.figures import Panel, draw
from litmus.claims.transferring import SCRATCH, Transfer, pilot_name, short_mean, target_label, told_rates, val_err
from litmus.config import WholeNumbers
from litmus.sweep.cells import Cell
from litmus.sweep.engine import Done

PHOTOS = ("photos from scratch", "photos on ImageNet")


class TransferFar(Transfer):
    """Ten classes of grey garments, and a folder of photos where there is one, on frozen features of ImageNet.

    The scratch arm is the base's own network on the images as they are: another network on smaller images than the
    frozen one sees, since what is compared is what one would do.
    """

    class Settings(Transfer.Settings):
        backbone: str
        weights: str
        """As ``model.weights``."""
        weights_by: str = "order"
        image_sizes: WholeNumbers
        """To which the images are brought for the frozen network, an arm each."""
        folder: str | None = None
        """``folder/CLASS/*.jpg``, of photos: the same arms again, at the most labels alone."""
        folder_size: int = 64
        """To which the photos are brought, for both networks."""

    def cells(self) -> list[Cell]:
        self.check_sizes()
        asked = self.settings
        if asked.folder is not None and not Path(asked.folder).expanduser().is_dir():
            says = "is no folder here; it holds one sub-folder of images a class, or is left out"
            raise self.refuse("folder", says, asked.folder)
        if min(asked.image_sizes) < 32 or len(set(asked.image_sizes)) < len(asked.image_sizes):
            raise self.refuse("image_sizes", "must be >= 32, each once", list(asked.image_sizes))
        return [
            Cell(pilot_name(arm, n, rate, by), self.target(arm, n, by, rate, self.start(arm)))
            for arm in self.arms
            for n in self.sizes(arm, (asked.labels[0], asked.labels[-1]))
            for rate in asked.rates
            for by in self.pilots
        ]

    @property
    def garments(self) -> list[str]:
        return [SCRATCH, *(f"ImageNet, at {size} px" for size in self.settings.image_sizes)]

    @property
    def arms(self) -> list[str]:
        return [*self.garments, *(PHOTOS if self.settings.folder is not None else ())]

    def sizes(self, arm: str, labels: Sequence[int]) -> list[int]:
        return [self.settings.labels[-1]] if arm in PHOTOS else list(labels)

    def then(self, done: Mapping[str, Done]) -> list[Cell]:
        if cell_name(target_label(SCRATCH, self.settings.labels[0]), 0) in done:
            return []
        return [
            Cell(
                cell_name(target_label(arm, n), by),
                self.target(arm, n, by, self.rate_of(done, arm, n), self.start(arm)),
            )
            for arm in self.arms
            for n in self.sizes(arm, self.settings.labels)
            for by in self.seeds
        ]

    def start(self, arm: str) -> dict[str, Any]:
        asked, changes = self.settings, {}
        if arm in PHOTOS:
            folder = {"name": "image_folder", "path": str(Path(asked.folder).expanduser())}
            kept = {key: getattr(self.base.data, key) for key in ("batch_size", "train_eval_size")}
            changes["data"] = {**folder, **kept, "image_size": asked.folder_size}
        if arm in (SCRATCH, PHOTOS[0]):
            return changes
        size = asked.folder_size if arm in PHOTOS else int(arm.split()[-2])
        return changes | {
            "model": {
                "name": "timm",
                "backbone": asked.backbone,
                "weights": asked.weights,
                "weights_by": asked.weights_by,
            },
            "freeze": {"layers": "body"},
            "data.image_size": size,
            "data.channels": 3,
            "data.mean": (0.5, 0.5, 0.5),
            "data.std": (0.5, 0.5, 0.5),
        }

    def read(self, done: Mapping[str, Done]) -> Table:
        table = self.by_labels(done, self.garments)
        if self.settings.folder is not None:
            most = self.settings.labels[-1]
            table["photos"] = {arm: self.per_seed(done, target_label(arm, most), val_err) for arm in PHOTOS}
        return table

    def judge(self, table: Table) -> list[Evidence]:
        errors, labels = table["val_err"], table["labels"]
        arms = [arm for arm in errors if arm != SCRATCH]
        most = f"below that from scratch at {labels[-1]} labels"
        found = [lower_on_average(f"val/err of {arm} {most}", errors[arm][-1], errors[SCRATCH][-1]) for arm in arms]
        for at, n in enumerate(labels[:-1]):
            told = ", ".join(f"{arm} {mean_of(errors[arm][at])}" for arm in errors)
            found.append(reported(f"val/err at {n} labels", told))
        if "photos" in table:
            scratch, frozen = (table["photos"][arm] for arm in PHOTOS)
            found.append(lower_on_average("photos: val/err of ImageNet below that from scratch", frozen, scratch))
        return [*found, told_rates(table, self.settings.rates)]

    def draw(self, table: Table, path: Path) -> Path:
        errors = {arm: list(zip(*rows, strict=True)) for arm, rows in table["val_err"].items()}
        garments = str(self.base.data.name)
        panels = [
            Panel(errors, "validation error rate", "labels, log scale", table["labels"], log_x=True, title=garments)
        ]
        if "photos" in table:
            named = {"from scratch": table["photos"][PHOTOS[0]], "ImageNet": table["photos"][PHOTOS[1]]}
            panels.append(Panel(named, "validation error rate", title=f"Photos, {table['labels'][-1]} labels"))
        scratch, *others = (short_mean(rows[-1]) for rows in table["val_err"].values())
        config = self.base
        return draw(
            panels,
            path,
            title=f"{table['labels'][-1]:,} labels: error {scratch} from scratch, {' and '.join(others)} on ImageNet",
            subtitle=f"{self.settings.backbone}, frozen, and {config.model.name} from scratch; {config.train.length} "
            f"{config.train.unit} of {config.data.batch_size} images, rates from pilots; bands: 95%",
            width=5.0,
        )
