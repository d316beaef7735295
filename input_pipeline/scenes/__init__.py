"""The built-in world: drawn scenes with exact masks and sentences, written in official formats.

    from input_pipeline import scenes
    scenes.write_world("data/world", seed=0, train=8000, val=250, test=250)

`vocabulary` holds the words, `shapes`, `backgrounds`, `scene` and `drawing` make the picture,
`expressions`, `sentences` and `narratives` talk about it, `proposals` segments it, `formats` and
`writer` put it on disk. It is a test bed and a controlled experiment, no measure of how well
something works on photographs.
"""

from input_pipeline.scenes.writer import WorldError, write_world

__all__ = ["WorldError", "write_world"]
