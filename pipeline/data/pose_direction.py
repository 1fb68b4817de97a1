"""Whether the poses of training data are cam_from_world or world_from_cam, which few files say."""

from collections.abc import Mapping

from pipeline.conventions import invert_poses
from pipeline.data.training_data import Bytes, Floats, Integers, PoseDirection, inside_mask, project
from pipeline.errors import LumenError

_LEAST_EXPLAINED = 0.9


def explained_shares(
    poses: Floats, points: Floats, pinhole: Floats, observation: tuple[Integers, Integers], mask: Bytes
) -> dict[PoseDirection, float]:
    """The share of observations that land inside the mask, in front of the camera, under each reading of the poses.

    Args:
        poses: (V, 3, 4), read either way.
        points: (P, 3).
        pinhole: (V, 4) fx, fy, cx, cy, px.
        observation: the points and the views of the observations, (O,) each.
        mask: (H, W) uint8, 255 = tissue.
    """
    point, view = observation
    readings: Mapping[PoseDirection, Floats] = {"cam_from_world": poses, "world_from_cam": invert_poses(poses)}
    return {
        direction: float(inside_mask(*project(points[point], cam_from_world[view], pinhole[view]), mask).mean())
        for direction, cam_from_world in readings.items()
    }


def choose_direction(
    shares: Mapping[PoseDirection, float], source: str, stated: PoseDirection | None = None
) -> PoseDirection:
    """The reading that explains the observations.

    Args:
        shares: from `explained_shares`.
        source: the file, for errors.
        stated: what the file says, if it does. It counts only where both explain the same: files are edited.

    Raises:
        LumenError: if neither explains at least 90 % of them, or both do equally well.
    """
    best = max(shares, key=lambda direction: shares[direction])
    told = ", ".join(f"{direction} {share:.1%}" for direction, share in shares.items())
    if shares[best] < _LEAST_EXPLAINED:
        raise LumenError(
            f"{source}: neither reading of the poses puts 90 % of the observations inside the mask and in front of the "
            f"camera ({told}): intrinsics, mask or poses are of something else; --pose_direction overrides this"
        )
    if len(set(shares.values())) == 1 and stated is not None:
        return stated
    if len(set(shares.values())) == 1:
        raise LumenError(f"{source}: both readings of the poses fit equally well ({told}): give --pose_direction")
    return best
