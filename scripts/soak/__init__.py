"""Long runs against the real review application: many users, kills, many reports. Each prints counts."""
