"""GIFT (Liu et al., NeurIPS 2019): scale- and rotation-invariant descriptors from group convolutions."""
