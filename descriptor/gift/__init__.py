"""GIFT (Liu et al., NeurIPS 2019): descriptors that no scale and rotation change, by convolutions over a group."""
