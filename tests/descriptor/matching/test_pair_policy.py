"""DDL's pair policy on videos with prescribed inlier ratios, and its matches on a known plane."""

import numpy as np
import pytest

from descriptor.matching.keypoint_matching import KeypointMatcher, KeypointRules
from descriptor.matching.pair_policy import DdlPolicy, PairMatches, match_from
from known_plane import Plane, moved
from pipeline.errors import LumenError

POLICY = DdlPolicy(temporal_range=4, skip_interval=3, test_keypoint_num=50, min_inlier_ratio=0.2, hysterisis_factor=0.7)


class Video:
    """Frames with given inlier ratios to the first frame."""

    def __init__(self, ratios: list[float]) -> None:
        self.ratios = [1.0, *ratios]
        self.tried: list[int] = []
        self.matched: list[int] = []

    def match(self, first: int, second: int, count: int | None) -> PairMatches:
        assert first == 0
        (self.matched if count is None else self.tried).append(second)
        assert count in (None, POLICY.test_keypoint_num)
        return PairMatches(np.zeros((20, 2), np.int64), self.ratios[second])

    def pairs(self) -> list[int]:
        return [second for second, _ in match_from(0, len(self.ratios), POLICY, self.match)]


def test_the_temporal_range_is_matched_and_weak_pairs_are_discarded() -> None:
    video = Video([0.9, 0.8, 0.1, 0.6])
    assert video.pairs() == [1, 2, 4]
    assert video.matched == [1, 2, 3, 4] and video.tried == []


def test_later_frames_are_tried_at_intervals_and_matched_where_the_camera_returns() -> None:
    # The mean of the temporal range is 0.6; frames 11 to 13 revisit the place.
    ratios = [0.6] * 4 + [0.1] * 6 + [0.65, 0.5, 0.45, 0.3] + [0.1] * 5
    video = Video(ratios)
    assert video.pairs() == [1, 2, 3, 4, 11, 12, 13]
    assert video.tried == [5, 8, 11, 17]
    assert video.matched == [1, 2, 3, 4, 11, 12, 13, 14]


def test_only_candidates_are_tried_and_their_surroundings_are_matched() -> None:
    ratios = [0.6, 0.6, 0.1, 0.6] + [0.1] * 6 + [0.65, 0.5, 0.3] + [0.1] * 6
    video = Video(ratios)
    worth = [2, 6, 11, 12, 13, 17, 18]
    found = match_from(0, len(video.ratios), POLICY, video.match, lambda first: worth)
    assert [second for second, _ in found] == [1, 2, 4, 11, 12]
    # Frames of the temporal and the spatial range, and those within the interval, are not tried again.
    assert video.tried == [6, 11, 17]


def test_nothing_beyond_the_temporal_range_is_tried_without_candidates() -> None:
    video = Video([0.6] * 20)
    assert [second for second, _ in match_from(0, 21, POLICY, video.match, lambda first: ())] == [1, 2, 3, 4]
    assert video.tried == []


def test_the_last_frame_has_no_pairs() -> None:
    assert list(match_from(5, 6, POLICY, Video([]).match)) == []


@pytest.mark.parametrize("settings", [{"temporal_range": 0}, {"skip_interval": 0}, {"min_inlier_ratio": 1.5}])
def test_invalid_options_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(LumenError, match=f"--{next(iter(settings))}"):
        DdlPolicy(**settings)  # type: ignore[arg-type]
    with pytest.raises(LumenError, match="--sigma 0"):
        KeypointRules(sigma=0)


def test_matches_are_correct_and_each_keypoint_has_one(plane: Plane) -> None:
    matcher = KeypointMatcher(plane.frames, plane.described, KeypointRules(max_feature_detection=400), 0)
    found = matcher.match(0, 5)
    first, second = matcher.keypoints(0), matcher.keypoints(5)
    assert 100 < len(first) <= 400
    assert len(found.rows) > 40 and found.inlier_ratio > 0.5
    truth = moved(plane.data, 0, 5, first[found.rows[:, 0]].astype(np.float64))
    assert np.median(np.linalg.norm(second[found.rows[:, 1]] - truth, axis=1)) < 4
    for column in (0, 1):
        assert len(np.unique(found.rows[:, column])) == len(found.rows)


def test_the_choice_of_keypoints_is_repeatable(plane: Plane) -> None:
    matcher = KeypointMatcher(plane.frames, plane.described, KeypointRules(max_feature_detection=400), 0)
    once = matcher.match(0, 3, 100)
    matcher.match(0, 7, 100)
    again = matcher.match(0, 3, 100)
    np.testing.assert_array_equal(once.rows, again.rows)
    assert len(once.rows) <= 100


def test_an_unreadable_or_empty_frame_has_no_matches(plane: Plane) -> None:
    plane.data.image_paths[4].write_bytes(b"")
    matcher = KeypointMatcher(plane.frames, plane.described, KeypointRules(), 0)
    assert matcher.keypoints(4).shape == (0, 2)
    found = matcher.match(0, 4)
    assert found.inlier_ratio == 0 and found.rows.shape == (0, 2)
