"""Image encoders other than DINOv2's behind the same interface: one file for each way of building one."""
