"""The bundled persona-dialogue sample and the program that wrote it."""
