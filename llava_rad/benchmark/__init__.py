"""The benchmark: reports of one or more models on a data set, scored beside reference points and the paper's table."""
