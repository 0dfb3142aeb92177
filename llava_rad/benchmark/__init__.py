"""Benchmark: reports of models on a data set, scored together with reference points and the paper's results."""
