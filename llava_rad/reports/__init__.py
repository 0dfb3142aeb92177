"""Image-report pairs: the Findings sections of public data sets, and the table that training reads."""
