"""Predictions to order in a music library: a catalogue, genre tags, playlists.

`genres` chooses the genres of a file from its scores; `organizing` says what is to be
done, and does it. `tags` reads and writes genre tags, `playlists` M3U8 files. Every
change goes through `changes`, which writes to the `journal` first how to undo it;
`delta` keeps that short.

A `catalogue` keeps results and corrections of a collection (`records`, in the
tables of `database`), finds `neighbours` and draws a `music_map`. No
TensorFlow.
"""
