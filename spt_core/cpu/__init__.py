"""Code that runs on a CPU alone: hand-written Llama layers and attention, and allocator settings."""
