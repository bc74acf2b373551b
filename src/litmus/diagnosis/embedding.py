"""A map of the features that the head reads, and how well the classes are apart in them.

scikit-learn is imported by the first call: it takes a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_POINTS = 2000
NEIGHBOURS = 5
MAX_PERPLEXITY = 30.0
_FEWEST_FOR_TSNE = 10
_DIMS_FOR_TSNE = 50


@dataclass(frozen=True)
class Embedding:
    """``points`` are (M, 2)."""

    points: NDArray[np.float64]
    method: str
    """``t-SNE`` or, for a handful of images, ``PCA``."""
    perplexity: float | None = None


def embed(features: ArrayLike) -> Embedding:
    """A map of features in the plane: t-SNE (van der Maaten & Hinton 2008) from their first 50 principal components.

    It keeps who is near to whom. Distances between clusters, and how large or dense one is, mean nothing: the number
    to read is ``knn_err``. The start is the principal components and the seed is fixed, so that the map is the same
    each time. Below 10 images, and where there are no two directions of variance, it is the first two components.

    Args:
        features: ``(M, F)``, finite; more than 2,000 take minutes, see ``spread_over_classes``.
    """
    x = _checked(features)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    varied = x - x.mean(axis=0)
    scale = float(np.abs(varied).max(initial=0.0))
    dims = min(_DIMS_FOR_TSNE, *x.shape)
    if scale == 0 or dims < 2:
        line = varied[:, :1]
        return Embedding(np.hstack([line, np.zeros_like(line)]), "PCA")
    parts = PCA(dims, random_state=0).fit_transform(varied / scale)
    if len(x) < _FEWEST_FOR_TSNE or parts[:, 1].std() < 1e-6 * parts[:, 0].std():
        return Embedding(parts[:, :2] * scale, "PCA")
    perplexity = min(MAX_PERPLEXITY, (len(x) - 1) / 3)
    points = TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(parts)
    return Embedding(points.astype(np.float64), "t-SNE", perplexity)


def knn_err(features: ArrayLike, labels: ArrayLike, k: int = NEIGHBOURS) -> float:
    """Leave-one-out error of the ``k`` nearest neighbours, by Euclidean distance: how far classes are from apart.

    Near the head's error, the features do the work; far above, the head draws a line that neighbours do not show.
    A tie goes to the class whose voters are nearer. With few images ``k`` is all of the others at most; a class with
    no more than ``k / 2`` images cannot win a vote against a class that surrounds it.

    Args:
        features: ``(N, F)``, N at least 2.
        labels: ``(N,)`` classes.
        k: neighbours that vote.
    """
    x, true = _checked(features), np.asarray(labels).reshape(-1)
    if len(x) != len(true) or len(x) < 2 or k < 1:
        raise ValueError(
            f"{len(x)} features, {len(true)} labels and k = {k}: wanted as many of both, 2 or more, k >= 1"
        )
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(x) - 1)
    neighbours = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)  # itself left out
    classes, own = np.unique(true, return_inverse=True)
    votes = np.zeros((len(x), len(classes)))
    rows = np.arange(len(x))
    for rank in range(k):
        votes[rows, own[neighbours[:, rank]]] += 1 + (k - rank) / (2 * k * (k + 1))  # all the extras together: < 1
    return float((votes.argmax(axis=1) != own).mean())


def spread_over_classes(labels: ArrayLike, most: int) -> NDArray[np.int64]:
    """Positions, ascending, of at most ``most`` images: each class in its proportion, evenly over its images."""
    true = np.asarray(labels).reshape(-1)
    order = np.argsort(true, kind="stable")
    if len(true) > most:
        order = order[(np.arange(most) * len(true)) // most]
    return np.sort(order).astype(np.int64)


def _checked(features: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"features have shape {x.shape}, wanted (N, F)")
    if not np.isfinite(x).all():
        raise ValueError("features hold values that are not finite")
    return x
