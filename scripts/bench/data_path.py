"""Images a second from memory to the normalised batch, beside torchvision and kornia, and the memory that it takes.

    python scripts/bench/data_path.py [--quick] [--device cuda] [--workers 2]

Every contestant gets the same 32x32x3 images in memory, shuffles, augments by the same amounts (bilinear) and ends at
a normalised float batch of 128 on the device. Ours is ``ImageDataModule``'s loader and ``to_batch``, what ``litmus
fit`` runs. torchvision runs per sample in a DataLoader, on PIL images (as its data sets hand them out) and on tensors;
the target is set against the faster. kornia gets whole batches by the same single gather as ours. Rounds are
interleaved, figures are medians of rounds; a ratio is the median of the rounds' ratios. Memory is what the process
holds after an epoch.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from kornia import augmentation as kornia
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import InterpolationMode, ToTensor, v2

from litmus.data.batch import Batch
from litmus.data.datamodule import ImageDataModule

BATCH = 128
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
OURS = "litmus"
MEMORY = """
import sys, psutil
from litmus.data.datamodule import ImageDataModule
def touch(num_images):
    data = ImageDataModule("synthetic", num_images=num_images, augment={"pad_crop": 4, "hflip": 0.5})
    for batch in data.train_dataloader():
        data.to_batch(batch, epoch=0)
    return data
touch(1000)  # what imports and first calls take is not the data's
before = psutil.Process().memory_info().rss
data = touch(int(sys.argv[1]))
size = data.images("train").images.nbytes
print((psutil.Process().memory_info().rss - before) / size, size)
"""

Batches = Callable[[], Iterator[Tensor]]


class Samples(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's in-memory data sets do it."""

    def __init__(self, images: Tensor, labels: Tensor, transform: v2.Transform, *, pil: bool):
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy() if pil else images
        self.labels, self.transform, self.pil = labels.tolist(), transform, pil

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[i]) if self.pil else self.images[i]
        return self.transform(image), self.labels[i]

    def __len__(self) -> int:
        return len(self.labels)


def per_sample(
    images: Tensor, labels: Tensor, operations: list[v2.Transform], device: torch.device, *, pil: bool, workers: int
) -> Batches:
    to_float = [ToTensor()] if pil else [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    samples = Samples(images, labels, v2.Compose([*operations, *to_float, v2.Normalize(MEAN, STD)]), pil=pil)
    # A pass ends: workers that had batches left to prefetch would do so during the next contestant's turn.
    order = RandomSampler(samples, num_samples=BATCH * (64 if workers else 16))
    pin = device.type == "cuda"
    loader = DataLoader(
        samples, BATCH, sampler=order, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin
    )
    return lambda: (batch.to(device, non_blocking=True) for batch, _ in loader)


def by_kornia(images: Tensor, labels: Tensor, operations: list[torch.nn.Module], device: torch.device) -> Batches:
    pin = device.type == "cuda"
    pipeline = kornia.AugmentationSequential(*operations, kornia.Normalize(MEAN, STD), data_keys=["input"])

    def batches() -> Iterator[Tensor]:
        for idx in torch.randperm(len(images)).split(BATCH):
            labels.index_select(0, idx)
            batch = images.index_select(0, idx)
            batch = (batch.pin_memory() if pin else batch).to(device, non_blocking=True)
            yield pipeline(batch.float().div_(255))

    return batches


def ours(data: ImageDataModule, device: torch.device) -> Batches:
    def batches() -> Iterator[Tensor]:
        loader = data.train_dataloader()
        if device.type == "cuda":  # as under a trainer
            loader = DataLoader(loader.dataset, None, sampler=loader.sampler, pin_memory=True)
        for batch in loader:
            on_device = Batch(*(column.to(device, non_blocking=True) for column in batch))
            yield data.to_batch(on_device, epoch=0).images

    return batches


def contestants(name: str, num_images: int, device: torch.device, workers: int) -> dict[str, Batches]:
    if name == "full":
        augment = {"shift": 0.1, "rotate": 15.0, "scale": (0.9, 1.1), "shear": 10.0, "hflip": 0.5}
        augment |= {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
        warp = v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), 10, InterpolationMode.BILINEAR)
        torchvision = [warp, v2.ColorJitter(0.2, 0.2, 0.2, 0.05), v2.RandomHorizontalFlip()]
        batchwise = [
            kornia.RandomAffine(15.0, (0.1, 0.1), (0.9, 1.1), 10.0, p=1.0),
            kornia.ColorJitter(0.2, 0.2, 0.2, 0.05, p=1.0),
        ]
    else:
        augment = {"pad_crop": 4, "hflip": 0.5}
        torchvision = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
        batchwise = [kornia.RandomCrop((32, 32), padding=4, p=1.0)]
    data = ImageDataModule(
        "synthetic", num_images=num_images, mean=MEAN, std=STD, augment=augment, batch_size=BATCH, drop_last=True
    )
    train = data.indices("train")
    images, labels = data.images("train")[train], data.images("train").labels[train]
    peers = {
        f"torchvision, {'PIL' if pil else 'tensors'}, {count} workers": per_sample(
            images, labels, torchvision, device, pil=pil, workers=count
        )
        for pil, count in itertools.product((True, False), (0, workers))
    }
    peers["kornia"] = by_kornia(images, labels, [*batchwise, kornia.RandomHorizontalFlip()], device)
    return {**peers, OURS: ours(data, device)}


def rate(batches: Batches, seconds: float, device: torch.device) -> float:
    """Images a second over as many passes as take ``seconds``, the first batch of each (workers start) left out."""
    count, elapsed = 0, 0.0
    while elapsed < seconds:
        one_pass = batches()
        batch = next(one_pass)
        started = time.perf_counter()
        for batch in one_pass:
            count += len(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed += time.perf_counter() - started
    assert batch.shape[1:] == (3, 32, 32)
    assert batch.dtype == torch.float32
    return count / elapsed


def race(
    name: str,
    *,
    rounds: int,
    seconds: float,
    num_images: int,
    device: torch.device,
    workers: int,
    targets: dict[str, float],
) -> None:
    runners = contestants(name, num_images, device, workers)
    rates: dict[str, list[float]] = {runner: [] for runner in runners}
    for turn in range(rounds + 1):  # the first round warms caches and workers
        for runner, batches in runners.items():
            measured = rate(batches, seconds, device)
            if turn:
                rates[runner].append(measured)
    peers = [runner for runner in runners if runner != OURS]
    faster = max(
        ("torchvision, PIL, 0 workers", "torchvision, tensors, 0 workers"), key=lambda p: statistics.median(rates[p])
    )
    print(f"\n{name + ', median of ' + str(rounds):<36}{'peer img/s':>12}{'ours img/s':>12}{'ratio':>8}{'target':>8}")
    for peer in peers:
        target = targets["kornia"] if peer == "kornia" else targets["torchvision"] if peer == faster else None
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates[OURS], rates[peer], strict=True))
        print(
            f"{peer:<36}{statistics.median(rates[peer]):>12,.0f}{statistics.median(rates[OURS]):>12,.0f}{ratio:>8.1f}"
            f"{'' if target is None else f'>= {target:g}':>8}",
            flush=True,
        )


def memory(num_images: int) -> None:
    answer = subprocess.run([sys.executable, "-c", MEMORY, str(num_images)], capture_output=True, text=True, check=True)
    ratio, size = (float(word) for word in answer.stdout.split())
    print(f"\n{'memory of the data module':<36}{'uint8 MB':>12}{'held MB':>12}{'ratio':>8}{'target':>8}")
    print(f"{f'{num_images:,} images':<36}{size / 1e6:>12.0f}{size * ratio / 1e6:>12.0f}{ratio:>8.2f}{'<= 1.2':>8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a minute, rougher figures")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="of torchvision's data loader, in its second rows")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    seconds, rounds, num_images = (0.3, 3, 10_000) if given.quick else (1.0, given.rounds, 20_000)
    run = partial(
        race, rounds=rounds, seconds=seconds, num_images=num_images, device=given.device, workers=given.workers
    )
    where = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else "cpu"
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads, batch {BATCH}, 32x32x3")
    run("full", targets={"torchvision": 15, "kornia": 2})
    run("pad-crop and flip", targets={"torchvision": 20, "kornia": 2})
    memory(50_000)


if __name__ == "__main__":
    main()
