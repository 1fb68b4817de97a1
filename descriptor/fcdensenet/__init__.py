"""Dense Descriptor Learning (DDL; Liu et al., CVPR 2020): the network FC-DenseNet, its loss and its training."""
