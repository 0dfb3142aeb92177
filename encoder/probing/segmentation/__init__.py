"""Segmentation on frozen features (paper 2.3, C.2, C.6.1, E.3.2): all there is to call, in one place.

data = read_segmentation_set(rows, recipe, ("left lung", "right lung"))
segmenter = train_segmentation(train, val, encoder, recipe, data.structures, SegmentationConfig(head="upernet"))
result = evaluate(segmenter, encoder, test, attributes=("ethnicity",))
"""

from encoder.probing.augmentation import SegmentationAugmentation
from encoder.probing.dice import DiceScore, GroupScores, dice
from encoder.probing.segmentation.config import SegmentationConfig
from encoder.probing.segmentation.data import SegmentationSet, by_split, read_segmentation_set
from encoder.probing.segmentation.evaluate import SegmentationResult, evaluate
from encoder.probing.segmentation.few_shot import FewShotPoint, few_shot
from encoder.probing.segmentation.inputs import Inputs, keep_inputs
from encoder.probing.segmentation.model import Segmenter, predict, probabilities
from encoder.probing.segmentation.train import Epoch, train_segmentation

__all__ = [
    "DiceScore",
    "Epoch",
    "FewShotPoint",
    "GroupScores",
    "Inputs",
    "SegmentationAugmentation",
    "SegmentationConfig",
    "SegmentationResult",
    "SegmentationSet",
    "Segmenter",
    "by_split",
    "dice",
    "evaluate",
    "few_shot",
    "keep_inputs",
    "predict",
    "probabilities",
    "read_segmentation_set",
    "train_segmentation",
]
