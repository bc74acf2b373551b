import subprocess
import sys

import numpy as np
import pytest

from litmus.diagnosis import embed, knn_err, spread_over_classes


def clusters(n, num_classes=4, dims=20, apart=8.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centres = apart * np.eye(num_classes, dims)
    return centres[labels] + generator.normal(size=(n, dims)), labels


def test_clusters_stay_together_and_the_map_is_the_same_each_time():
    features, labels = clusters(120)
    found = embed(features)
    assert (found.method, found.points.shape, found.perplexity) == ("t-SNE", (120, 2), 30)
    assert knn_err(found.points, labels) == 0
    assert np.array_equal(embed(features).points, found.points)


@pytest.mark.parametrize(
    ("features", "method"),
    [
        (clusters(12)[0], "t-SNE"),  # its perplexity must stay below the number of images
        (clusters(9)[0], "PCA"),
        (clusters(1)[0], "PCA"),
        (np.ones((30, 5)), "PCA"),  # dead features
        (np.arange(30.0)[:, None], "PCA"),  # one feature
        (np.arange(30.0)[:, None] * np.ones(5), "PCA"),  # on a line
        (1e-9 * clusters(40)[0], "t-SNE"),
    ],
    ids=["12 images", "9 images", "1 image", "constant", "1 feature", "a line", "tiny numbers"],
)
def test_few_or_dull_features_are_mapped_without_a_warning(features, method):
    found = embed(features)
    assert found.method == method
    assert found.points.shape == (len(features), 2)
    assert np.isfinite(found.points).all()


def test_pca_keeps_distances_in_the_plane_it_keeps():
    plane = np.random.default_rng(0).normal(size=(8, 2))
    features = plane @ np.linalg.qr(np.random.default_rng(1).normal(size=(6, 2)))[0].T
    found = embed(features)
    ours, theirs = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (found.points, plane))
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("k", [1, 5])
def test_knn_err_is_leave_one_out_of_scikit_learns_classifier(k):
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = clusters(80, num_classes=2, apart=1.5)  # two classes and odd k: no ties
    right = cross_val_score(KNeighborsClassifier(k), features, labels, cv=LeaveOneOut())
    assert 0 < knn_err(features, labels, k) == pytest.approx(1 - right.mean())


def test_a_tie_goes_to_the_nearer_class():
    features = np.array([[0.0], [1.0], [1.1], [-2.0], [-2.1], [50.0]])
    labels = [7, 7, 7, 3, 3, 3]
    assert knn_err(features[:5], labels[:5], k=4) == pytest.approx(2 / 5)  # of the first: 7, 7, 3, 3; 7 is nearer
    assert knn_err([[0.0], [1.0]], [0, 0]) == 0  # k is cut to the one other


def test_a_subset_keeps_the_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    np.random.default_rng(0).shuffle(labels)
    chosen = spread_over_classes(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [60, 30, 10]
    assert (np.diff(chosen) > 0).all()
    assert spread_over_classes(labels[:5], 100).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("features", [np.zeros(3), np.zeros((0, 3)), [[np.nan, 1.0]]])
def test_what_are_no_features_is_refused(features):
    with pytest.raises(ValueError, match="features"):
        embed(features)


def test_importing_the_diagnosis_imports_neither_torch_nor_scikit_learn():
    code = "import sys, litmus.diagnosis; print([n for n in ('torch', 'sklearn', 'matplotlib') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
