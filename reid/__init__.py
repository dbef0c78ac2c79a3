"""BoT, the strong re-identification baseline (Luo et al., CVPRW 2019), and the Market-1501 evaluation."""
