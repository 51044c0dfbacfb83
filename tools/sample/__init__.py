"""The program that writes the bundled sample, and the phrases that it combines."""
