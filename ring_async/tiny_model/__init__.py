"""How `builtin:tiny` is made: its tokenizer, programmatic solutions, and supervised training from scratch.

`python -m ring_async.tiny_model --help`, or `make tiny-model`; `docs/tiny_model.md` tells the whole story.
"""
