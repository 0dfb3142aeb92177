"""Segmentation on frozen features (paper 2.3, C.2, C.6.1, E.3.2).

data = read_segmentation_set(rows, recipe, ("left lung", "right lung"))
segmenter = train_segmentation(train, val, encoder, recipe, data.structures, SegmentationConfig(head="upernet"))
result = evaluate(segmenter, encoder, test, attributes=("ethnicity",))
"""
