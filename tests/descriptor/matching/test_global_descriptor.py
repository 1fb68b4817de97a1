"""Global descriptors: frames with the same content are similar, independent of non-tissue pixels."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.global_descriptor import FrameSimilarity, find_words, word_frequencies
from descriptor.network_frame import NetworkFrame
from known_plane import FRAMES, Plane

FRAME = NetworkFrame((32, 24), (32, 24), (0, 0), (24, 32))


def described(values: torch.Tensor, mask: torch.Tensor) -> DescriptorMap:
    return DescriptorMap(functional.normalize(values, dim=0), mask, FRAME)


def test_words_are_cluster_centres() -> None:
    corners = np.eye(5, dtype=np.float32)[np.arange(2000) % 5]
    noise = 0.02 * np.random.default_rng(0).normal(size=corners.shape)
    words = find_words((corners + noise).astype(np.float32), 0)
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    assert (words.max(axis=1) > 0.95).mean() > 0.9 and set(words.argmax(axis=1)) == set(range(5))
    np.testing.assert_array_equal(words, find_words((corners + noise).astype(np.float32), 0))
    assert find_words(corners[:3], 0).shape == (3, 5), "as many as there are samples at most"


def test_only_tissue_counts() -> None:
    words = functional.normalize(torch.randn(16, 8), dim=1)
    values, mask = torch.randn(8, 24, 32), torch.rand(24, 32) < 0.5
    other = values.clone()
    other[:, ~mask] = torch.randn(8, int((~mask).sum()))
    own = word_frequencies(described(values, mask), words)
    np.testing.assert_array_equal(own, word_frequencies(described(other, mask), words))
    assert np.linalg.norm(own) == pytest.approx(1, abs=1e-5)
    assert not word_frequencies(described(values, torch.zeros_like(mask)), words).any()


def test_similarity_increases_with_shared_content(plane: Plane) -> None:
    alike = FrameSimilarity(plane.described, FRAMES, 0).between(0, range(FRAMES))
    assert alike[0] == pytest.approx(1, abs=1e-5)
    assert alike[1] > alike[6] > alike[11] > 0


def test_the_most_similar_rows_keep_their_distance(plane: Plane) -> None:
    similarity = FrameSimilarity(plane.described, FRAMES, 0)
    assert similarity.most_similar(0, range(1, FRAMES), 3, 1) == [1, 2, 3]
    assert similarity.most_similar(0, range(1, FRAMES), 3, 4) == [1, 5, 9]
    assert similarity.most_similar(0, range(1, FRAMES), 2, 4) == [1, 5]
    alike = similarity.between(0, range(FRAMES))
    assert similarity.most_similar(0, range(1, FRAMES), FRAMES, 1, float(alike[5])) == [1, 2, 3, 4, 5]


def test_no_frame_is_described_without_candidates(plane: Plane) -> None:
    assert FrameSimilarity(plane.described, FRAMES, 0).most_similar(FRAMES - 1, range(FRAMES, FRAMES), 3, 1) == []
    assert plane.descriptor.asked == []


def test_similarity_is_zero_if_no_sampled_frame_is_readable(
    plane: Plane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("descriptor.matching.global_descriptor._SAMPLED_FRAMES", 2)
    for row in (0, FRAMES - 1):
        plane.data.image_paths[row].write_bytes(b"")
    similarity = FrameSimilarity(plane.described, FRAMES, 2**40)
    assert not similarity.between(3, [4, 5]).any() and similarity.most_similar(3, range(4, FRAMES), 3, 1) == []


def test_similarity_to_an_unreadable_frame_is_zero(plane: Plane) -> None:
    plane.data.image_paths[4].write_bytes(b"")
    similarity = FrameSimilarity(plane.described, FRAMES, 0)
    assert similarity.between(3, [4, 5])[0] == 0
    assert (similarity.between(4, [3, 4, 5]) == 0).all()
    assert similarity.most_similar(4, range(5, FRAMES), 3, 1) == []
    assert 4 not in similarity.most_similar(3, range(FRAMES), FRAMES, 1)
