"""Long runs against the real review application: many people, sudden ends, many reports; each prints its counts."""
