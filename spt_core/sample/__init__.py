"""The bundled persona-dialogue sample: train.txt and valid.txt, written by tools/sample/write_sample.py."""
