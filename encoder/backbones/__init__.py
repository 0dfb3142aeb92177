"""Image encoders behind one interface: one module for each family."""
