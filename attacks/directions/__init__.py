"""A batch taken apart at a linear layer: what exact attacks and label restoration share.

A linear layer's gradient splits into as many directions as there are examples (`low_rank`); each example's is found by a
`search`, and gives the layer's input and the slopes at its output (`inputs`).
"""
