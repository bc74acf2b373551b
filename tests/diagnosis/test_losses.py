import numpy as np
import pytest
import torch
from torch.nn import functional as F

from litmus.diagnosis import top_losses


def test_the_worst_come_first_with_torchs_cross_entropy():
    generator = np.random.default_rng(0)
    logits, labels = 4 * generator.normal(size=(50, 7)), generator.integers(0, 7, 50)
    found = top_losses(logits, labels, top=10)
    loss = F.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    assert [one.position for one in found] == loss.argsort(descending=True)[:10].tolist()
    assert [one.loss for one in found] == pytest.approx(loss.sort(descending=True).values[:10].tolist())
    chances = torch.tensor(logits).softmax(1)
    for one in found:
        assert one.label == labels[one.position]
        assert one.predicted == logits[one.position].argmax()
        assert one.probability == pytest.approx(chances[one.position, one.label].item())
        assert one.confidence == pytest.approx(chances[one.position].max().item())


def test_losses_that_saturate_float32_are_still_told_apart():
    logits = np.array([[0.0, 900.0], [0.0, 800.0], [0.0, 1000.0]], dtype=np.float32)
    assert [(one.position, one.loss) for one in top_losses(logits, [0, 0, 0])] == [(2, 1000), (0, 900), (1, 800)]


def test_equal_losses_keep_their_order_and_few_images_give_few():
    assert [one.position for one in top_losses(np.zeros((3, 2)), [0, 1, 0])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [([[0, np.inf]], [0], "finite"), ([[0, 1]], [2], r"\[0, 2\)"), ([[0, 1]], [0, 1], "2 labels")],
)
def test_what_does_not_fit_is_refused(logits, labels, says):
    with pytest.raises(ValueError, match=says):
        top_losses(logits, labels)
