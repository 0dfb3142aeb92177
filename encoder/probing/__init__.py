"""What the features of a frozen encoder are worth: classification, segmentation, demographics."""
