"""The classifier finds textures without labels, decides in integers, and comes back from disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import QsearchError
from qsearch.patches import Classifier, ClustBlock, Clustering, Layout, gather, train_clustblock, training_patches
from qsearch.patches.classifier import ONE
from qsearch.patches.features import patch_features
from qsearch.patches.kmeans import kmeans
from tests.patches.networks import textures, tiny
from tests.small_networks import random_images

LAYOUT = Layout(16)


@pytest.fixture(scope="module")
def trained() -> tuple[ClustBlock, Classifier, float]:
    patches = training_patches([textures(96, 96)], LAYOUT)
    block, agreed = train_clustblock(tiny(), patches, classes=3, steps=150)
    return block, Classifier.freeze(block, patches), agreed


def test_patches_for_training_have_one_size_though_the_images_do_not() -> None:
    images = random_images(1, 61, 40) + random_images(1, 33, 57) + random_images(1, 8, 60)
    patches = training_patches(images, Layout(16, 4))
    assert {patch.shape for patch in patches} == {(16, 16, 3)}
    assert len(patches) == 4 * 3 + 2 * 4, "none from the image that is smaller than a patch"


def test_kmeans_finds_separate_groups_and_is_deterministic() -> None:
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(centre, 0.1, (20, 2)) for centre in (0, 5, 10)])
    labels, centres = kmeans(points, 3)
    assert [len(set(labels[start : start + 20])) for start in (0, 20, 40)] == [1, 1, 1]
    assert len(set(labels)) == 3
    assert np.array_equal(labels, kmeans(points, 3)[0])
    np.testing.assert_allclose(np.sort(centres[:, 0]), [0, 5, 10], atol=0.2)


def test_kmeans_of_equal_points_and_of_too_few() -> None:
    assert set(kmeans(np.ones((5, 2)), 3)[0]) == {0}
    with pytest.raises(QsearchError, match="2 patches cannot be divided into 3 classes"):
        kmeans(np.ones((2, 2)), 3)


def test_features_are_those_before_the_first_upsampling() -> None:
    patches = gather(textures(), LAYOUT.split(48, 48))
    features = patch_features(tiny().calibration.graph, patches, tiny().model.white)
    assert features.shape == (9, 16), "mean and deviation of eight channels"
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(features[0], features[2], atol=1e-5, err_msg="both are flat")


def test_textures_become_classes(trained: tuple[ClustBlock, Classifier, float]) -> None:
    _, classifier, agreed = trained
    assert agreed > 0.9
    image = textures()
    found = Clustering(classifier).clusters(image, LAYOUT.split(48, 48))
    flat, busy = found.cluster[::2], found.cluster[1::2]
    assert len(set(flat.tolist())) == 1
    assert not set(flat.tolist()) & set(busy.tolist())


def test_the_frozen_classifier_follows_the_float_one(trained: tuple[ClustBlock, Classifier, float]) -> None:
    block, classifier, _ = trained
    patches = [*random_images(12, 16, 16), *gather(textures(), LAYOUT.split(48, 48))]
    found = classifier.probabilities(patches)
    with torch.inference_mode():
        expected = torch.softmax(block(torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)), 1).numpy()
    assert found.shape == (21, 3)
    np.testing.assert_allclose(found / ONE, expected, atol=0.1)
    assert (found.sum(1) <= ONE).all()
    assert (found.sum(1) > ONE - 4).all()


def test_training_is_deterministic(trained: tuple[ClustBlock, Classifier, float]) -> None:
    policy = Clustering.train(tiny(), [textures(96, 96)], LAYOUT, classes=3, steps=150)
    for name, value in policy.classifier.tensors.items():
        assert torch.equal(value, trained[1].tensors[name]), name


def test_its_cost_is_counted(trained: tuple[ClustBlock, Classifier, float]) -> None:
    convolutions = 16 * 27 * 16**2 + 32 * 144 * 8**2 + 32 * 288 * 4**2
    assert trained[1].macs(32, 32) == convolutions + 3 * 32
    policy = Clustering(trained[1])
    patches = LAYOUT.split(48, 48)
    assert policy.bitops(patches) == 9 * trained[1].macs(16, 16) * 64


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (16, 16)])
def test_images_smaller_than_a_patch_and_grey_ones(
    trained: tuple[ClustBlock, Classifier, float], size: tuple[int, int]
) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    patches = LAYOUT.split(*size)
    found = Clustering(trained[1]).decide(image, patches)
    assert len(found.levels) == len(patches)
    assert 0 in found.levels


def test_save_and_load(trained: tuple[ClustBlock, Classifier, float], tmp_path: Path) -> None:
    path = tmp_path / "classes.safetensors"
    trained[1].save(path)
    again, patches = Classifier.load(path), random_images(5, 16, 16)
    assert again.classes == 3
    assert np.array_equal(again.probabilities(patches), trained[1].probabilities(patches))
    saved = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == saved


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="does not exist"):
        Classifier.load(tmp_path / "absent.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no tensors here")
    with pytest.raises(QsearchError, match="damaged"):
        Classifier.load(damaged)
    other = tmp_path / "other.safetensors"
    tiny().calibration.save(other)
    with pytest.raises(QsearchError, match="holds no texture classifier"):
        Classifier.load(other)


def test_training_needs_images_of_a_patch() -> None:
    with pytest.raises(QsearchError, match="no image is as large as a patch of 16"):
        training_patches([textures(8, 8)], LAYOUT)
