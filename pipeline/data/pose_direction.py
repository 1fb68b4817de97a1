"""Detect whether the poses of training data are cam_from_world or world_from_cam. Few files state it."""

from collections.abc import Mapping

from pipeline.arrays import Bytes, Float64s, Ints
from pipeline.conventions import invert_poses
from pipeline.data.training_data import PoseDirection, inside_mask, project
from pipeline.errors import LumenError

_LEAST_EXPLAINED = 0.9


def explained_shares(
    poses: Float64s, points: Float64s, pinhole: Float64s, observation: tuple[Ints, Ints], mask: Bytes
) -> dict[PoseDirection, float]:
    """The share of observations that project in front of the camera and inside the mask, for each pose direction.

    Args:
        poses: (V, 3, 4), of unknown direction.
        points: (P, 3).
        pinhole: (V, 4) fx, fy, cx, cy, px.
        observation: the point and the view of each observation, (O,) each.
        mask: (H, W) uint8, 255 = tissue.
    """
    point, view = observation
    readings: Mapping[PoseDirection, Float64s] = {"cam_from_world": poses, "world_from_cam": invert_poses(poses)}
    return {
        direction: float(inside_mask(*project(points[point], cam_from_world[view], pinhole[view]), mask).mean())
        for direction, cam_from_world in readings.items()
    }


def choose_direction(
    shares: Mapping[PoseDirection, float], source: str, stated: PoseDirection | None = None
) -> PoseDirection:
    """Choose the pose direction that explains the observations.

    Args:
        shares: from `explained_shares`.
        source: the file, for errors.
        stated: the direction that the file states, if any. It decides only a tie, because files are edited by hand.

    Raises:
        LumenError: if neither direction explains at least 90 % of the observations, or both explain the same share.
    """
    best = max(shares, key=lambda direction: shares[direction])
    listed = ", ".join(f"{direction} {share:.1%}" for direction, share in shares.items())
    if shares[best] < _LEAST_EXPLAINED:
        raise LumenError(
            f"{source}: for both pose directions, fewer than 90 % of the observations project in front of the camera "
            f"and inside the mask ({listed}): intrinsics, mask and poses do not match; --pose_direction overrides this"
        )
    if len(set(shares.values())) == 1 and stated is not None:
        return stated
    if len(set(shares.values())) == 1:
        raise LumenError(f"{source}: both pose directions fit equally well ({listed}): set --pose_direction")
    return best
