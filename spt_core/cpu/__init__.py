"""What runs on a CPU alone: Llama layers and attention written by hand, and the allocator settings of its process."""
