"""Dense SIFT (Lowe, IJCV 2004), upright and at one scale: the baseline of an untrained descriptor."""

import cv2
import numpy as np
import torch

from descriptor.base import Descriptor, DescriptorMap, check_sizes
from descriptor.network_frame import NetworkFrame, common_size
from pipeline.arrays import AnyFloats, Bytes, Float32s
from pipeline.conventions import colmap_from_index, opencv_from_colmap
from pipeline.errors import require

_SIZE_PX = 16.0
_SPACING_PX = 8.0
_MULTIPLE = 32


class DenseSift(Descriptor):
    """SIFT on the recorded frame at every 8th pixel in both directions; matches are refined between cells."""

    name = "dense_sift"
    length = 128

    def __init__(self) -> None:
        self._sift = cv2.SIFT.create()

    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """See `Descriptor.describe`."""
        check_sizes(image, mask)
        frame = NetworkFrame.of_mask(mask, _SPACING_PX, common_size([mask], _SPACING_PX, _MULTIPLE))
        tissue = frame.cut_mask(mask)
        row, column = np.nonzero(tissue)
        middles = colmap_from_index(np.stack([column, row], axis=1))
        places = opencv_from_colmap(frame.image_from_network(middles))
        described = np.zeros((*tissue.shape, self.length), np.float32)
        described[row, column] = self._at(image, places)
        values = torch.from_numpy(described).permute(2, 0, 1)
        return DescriptorMap(torch.nn.functional.normalize(values, dim=0), torch.from_numpy(tissue), frame)

    def _at(self, image: Bytes, places: AnyFloats) -> Float32s:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        # With an unset angle, OpenCV computes no descriptors.
        keypoints = [cv2.KeyPoint(float(x), float(y), _SIZE_PX, 0.0) for x, y in places]
        kept, values = self._sift.compute(grey, keypoints)
        require(len(kept) == len(places), "SIFT dropped keypoints of the grid")
        return np.asarray(values, np.float32)
